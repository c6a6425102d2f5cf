// Light formatting of model output: paragraphs and fenced code blocks, built as DOM nodes whose content is text.

import { copy, el } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;

/** Cut text into blocks {kind: "text" | "code", text, language}. An unclosed fence runs to the end. */
export function blocks(text) {
  const found = [];
  let lines = [];
  let fence = null;
  const flush = (kind, language = "") => {
    const content = lines.join("\n");
    lines = [];
    if (kind === "code") found.push({ kind, text: content, language });
    else {
      for (const part of content.split(/\n{2,}/)) {
        if (part.trim()) found.push({ kind, text: part.replace(/^\n+|\n+$/g, ""), language });
      }
    }
  };
  for (const line of text.split("\n")) {
    const match = FENCE.exec(line);
    if (fence === null && match) {
      flush("text");
      fence = match;
    } else if (fence !== null && match && match[2] === "" && match[1].startsWith(fence[1])) {
      flush("code", fence[2]);
      fence = null;
    } else {
      lines.push(line);
    }
  }
  flush(fence === null ? "text" : "code", fence?.[2]);
  return found;
}

/** Make `element` show `text`, changing only the nodes that differ, so that a selection survives streaming. */
export function render(element, text) {
  const wanted = blocks(text);
  wanted.forEach((block, index) => {
    const old = element.children[index];
    if (old?.dataset.kind === block.kind && (old.dataset.language ?? "") === block.language) {
      const target = block.kind === "code" ? old.querySelector("code") : old;
      if (target.textContent !== block.text) target.textContent = block.text;
      return;
    }
    const made = block.kind === "code" ? code(block) : el("p", { "data-kind": "text" }, block.text);
    if (old) old.replaceWith(made);
    else element.append(made);
  });
  while (element.children.length > wanted.length) element.lastElementChild.remove();
}

function code(block) {
  const content = el("code", {}, block.text);
  const button = el("button", { type: "button", class: "quiet" }, "Copy");
  button.addEventListener("click", () => copy(content.textContent, button));
  return el(
    "div",
    { class: "code-block", "data-kind": "code", "data-language": block.language || null },
    el("div", { class: "code-head" }, el("span", {}, block.language), button),
    el("pre", { tabindex: "0", "aria-label": "Code" }, content),
  );
}
