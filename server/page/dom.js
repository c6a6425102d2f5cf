// Builds DOM nodes. Text becomes text nodes, always: nothing here or in the other modules parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** Return a new element with these attributes and children (nodes or strings). `onclick` and the like are listeners. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for an element of an SVG image. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Say something to screen readers, without showing it. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

/** Put `text` on the clipboard and say so on `button` for a moment. */
export async function copy(text, button) {
  const label = button.textContent;
  try {
    await writeClipboard(text);
    button.textContent = "Copied";
    announce("Copied");
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => (button.textContent = label), 1500);
}

async function writeClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Browsers offer the clipboard's API on https and localhost only; this older way works elsewhere.
  const field = el("textarea", { class: "unseen", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error("refused");
}
