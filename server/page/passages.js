// The passages that an answer was grounded in, folded. They come from documents: text, whatever is in them.

import { el } from "./dom.js";
import { many } from "./numbers.js";

/** Return a folded list of `citations`, [{file, chunk, score, text}]; null if there are none. */
export function passages(citations) {
  if (!Array.isArray(citations) || citations.length === 0) return null;
  const scores = citations.map((citation) => citation.score).filter(Number.isFinite);
  const best = Math.max(...scores);
  return el(
    "details",
    { class: "passages" },
    el("summary", {}, many(citations.length, "passage"), scores.length ? ` · best score ${best.toFixed(3)}` : ""),
    el("ol", {}, ...citations.map((citation) => passage(citation, best))),
  );
}

function passage({ file, chunk, score, text }, best) {
  const bar = el("i", {});
  bar.style.width = `${best > 0 && Number.isFinite(score) ? Math.max(0, (100 * score) / best) : 0}%`;
  return el(
    "li",
    {},
    el(
      "div",
      { class: "source" },
      el("cite", {}, String(file ?? "document")),
      el("span", {}, chunk === undefined || chunk === null ? "" : `part ${chunk}`),
      el("span", { class: "score", title: "Score of the search; the bar is relative to the best" },
        el("span", { class: "score-bar" }, bar), Number.isFinite(score) ? score.toFixed(3) : ""),
    ),
    el("blockquote", {}, String(text ?? "")),
  );
}
