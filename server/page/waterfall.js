// The waterfall of an answer: a table with a row a phase and a bar drawn to the scale of one time axis.

import { el } from "./dom.js";
import { axisLabels, duration } from "./numbers.js";

/** The server's phases in the order of a request (docs/METRICS.md), and what happens in them. */
const PHASES = {
  parse: "read and check the request",
  embed: "embed the question",
  search: "search the documents",
  turn: "wait for a turn to be read",
  template: "render the chat template",
  tokenize: "text to tokens",
  submit: "hand the request to the engine",
  queue: "wait for a free sequence",
  prefill: "compute the prompt, up to the first token",
  decode: "compute the further tokens",
  sampling: "choose tokens",
  handoff: "from the engine to the answering thread",
  detokenize: "tokens to text",
  write: "send to the client",
};

/** From the first token on, these take turns with each other or run side by side, token by token. */
const PER_TOKEN = new Set(["decode", "sampling", "handoff", "detokenize", "write"]);

/** Less than this share of the total that no phase claims is not worth a row. */
const REST = 0.01;

/**
 * Place the phases of `timings` (the server's object) on the axis: rows of {name, note, start, seconds, spread}.
 *
 * The response says how long each phase took in all. Up to prefill they follow each other, so their place is known.
 * Those of every token are spread over the time after the first token; their bars show the sum, one after the other
 * in that span, and `spread` holds the span's start.
 */
export function place(timings) {
  const known = Object.keys(PHASES).filter((name) => name in timings.phases);
  const unknown = Object.keys(timings.phases).filter((name) => !(name in PHASES));
  const total = timings.total_seconds;
  const rows = [];
  let cursor = 0;
  let first = null;
  for (const name of [...known, ...unknown]) {
    const seconds = timings.phases[name];
    const perToken = PER_TOKEN.has(name);
    if (perToken && first === null) first = cursor;
    const start = Math.max(0, Math.min(cursor, total - seconds));
    rows.push({ name, note: PHASES[name] ?? "", start, seconds, spread: perToken ? first : null });
    cursor = start + seconds;
  }
  const rest = total - rows.reduce((sum, row) => sum + row.seconds, 0);
  if (rest > REST * total) {
    rows.push({ name: "rest", note: "no phase claims it", start: total - rest, seconds: rest, spread: 0 });
  }
  return rows;
}

/** The rows of an answer that is still on its way, as the browser sees it. */
export function placeLive(arrivals, elapsed) {
  const first = arrivals[0] ?? elapsed;
  const rows = [{ name: "waiting", note: "for the first token", start: 0, seconds: first, spread: null }];
  if (arrivals.length) {
    const seconds = arrivals.at(-1) - first;
    rows.push({ name: "streaming", note: "from the first token on", start: first, seconds, spread: null });
  }
  return rows;
}

/** Draw `rows` on an axis from 0 to `end` seconds; `total` ends the spans. */
export function draw(rows, end, total) {
  const percent = (seconds) => `${(100 * seconds) / end}%`;
  const body = rows.map((row) => {
    const bar = el("div", { class: `bar ${row.spread === null ? "" : "sum"}`, "data-phase": row.name });
    bar.style.left = `min(${percent(row.start)}, 100% - 2px)`; // the narrowest bar stays visible at the end
    bar.style.width = percent(row.seconds);
    let span = null;
    if (row.spread !== null) {
      span = el("div", { class: "span", "data-phase": row.name });
      span.style.left = percent(row.spread);
      span.style.width = percent(total - row.spread);
    }
    const share = total > 0 ? `, ${((100 * row.seconds) / total).toFixed(1)} % of the total` : "";
    return el(
      "tr",
      { title: `${row.name}: ${row.note}${share}`, "data-seconds": row.seconds },
      el("th", { scope: "row" }, row.name),
      el("td", { class: "track" }, span, bar),
      el("td", { class: "value" }, duration(row.seconds)),
    );
  });
  return el(
    "div",
    { class: "chart" },
    axis(end),
    el("table", { "aria-label": "Seconds by phase" }, el("tbody", {}, ...body)),
  );
}

/** The axis above the rows, with lines through them. */
function axis(end) {
  const marks = axisLabels(end, 5);
  const labels = marks.map(([seconds, text], index) => {
    const label = el("span", { class: index === 0 ? "first" : "" }, text);
    label.style.left = `${(100 * seconds) / end}%`;
    label.hidden = seconds > 0.93 * end; // it would stick out
    return label;
  });
  const lines = marks.map(([seconds]) => {
    const line = el("i", {});
    line.style.left = `${(100 * seconds) / end}%`;
    return line;
  });
  return el("div", { class: "axis", "aria-hidden": "true" }, ...labels, ...lines);
}
