// What is known about one answer's time and tokens: figures, the token bar, the waterfall, the gaps.

import { el } from "./dom.js";
import * as gaps from "./gaps.js";
import { count, duration, many, rate } from "./numbers.js";
import { draw, place, placeLive } from "./waterfall.js";

export class Trace {
  #answer;
  #zoomed = false;

  constructor(answer) {
    this.#answer = answer;
    this.element = el("aside", { class: "trace", "aria-label": "Where the time went" });
    this.update();
  }

  /** Draw anew from what the answer holds now. */
  update() {
    const answer = this.#answer;
    const final = answer.timings !== null;
    const rows = final ? place(answer.timings) : placeLive(answer.arrivals, answer.elapsed);
    const total = final ? answer.timings.total_seconds : answer.elapsed;
    const whole = Math.max(total, answer.elapsed, 1e-6);
    const first = rows.filter((row) => row.spread === null).reduce((end, row) => Math.max(end, row.start + row.seconds), 0);
    this.element.dataset.elapsed = answer.elapsed;
    this.element.hidden = answer.state === "failed" && answer.arrivals.length === 0; // nothing took place
    const zoomed = final && this.#zoomed;
    const end = zoomed ? first : whole;
    const shown = zoomed ? rows.filter((row) => row.start < first) : rows;
    this.element.replaceChildren(
      figures(answer),
      ...(final ? [tokens(answer)] : []),
      el("div", { class: "waterfall" }, draw(shown, end, total), zoomed ? null : gaps.draw(answer.arrivals, end)),
      this.#foot(answer, final && first > 0 && first < 0.5 * whole),
    );
  }

  #foot(answer, zoomable) {
    const foot = el("p", { class: "foot" });
    if (zoomable) {
      const button = el("button", { type: "button", class: "quiet", "aria-pressed": String(this.#zoomed) });
      button.textContent = this.#zoomed ? "Whole answer" : "Zoom to the first token";
      button.addEventListener("click", () => {
        this.#zoomed = !this.#zoomed;
        this.update();
        this.element.querySelector(".foot button").focus();
      });
      foot.append(button);
    }
    if (answer.timings === null && answer.state !== "running") {
      foot.append("The server sends its timings with the last chunk, which this answer did not get; this is the browser's view.");
    }
    return foot;
  }
}

/** The row of figures. Time to first token is the browser's; the rest the server's, once it has sent them. */
function figures(answer) {
  const { arrivals, timings, usage } = answer;
  const streamed = arrivals.length > 1 ? (arrivals.length - 1) / (arrivals.at(-1) - arrivals[0]) : null;
  const list = [
    ["TTFT", arrivals.length ? duration(arrivals[0]) : "–", "Time to first token, as this browser saw it", "ttft"],
    ["decode", timings ? `${rate(timings.predicted_per_second)} tok/s` : streamed ? `${rate(streamed)} /s` : "–",
      timings ? "Tokens per second of decode and sampling" : "Pieces of text per second", "decode"],
    ["prefill", timings?.prompt_per_second ? `${rate(timings.prompt_per_second)} tok/s` : "–",
      "Computed prompt tokens per second of prefill", "prefill"],
    ["tokens", count(usage?.completion_tokens ?? arrivals.length), usage ? "Tokens of the answer" : "Pieces of text so far", "tokens"],
    ["total", duration(timings?.total_seconds ?? answer.elapsed), timings ? "The server's time from the request's first line to here" : "Since the request was sent", "total"],
    ["finish", answer.finishReason ?? { running: "…", stopped: "stopped", failed: "failed", done: "–" }[answer.state],
      "Why the answer ended", "finish"],
  ];
  return el(
    "dl",
    { class: "figures" },
    ...list.map(([term, value, title, name]) =>
      el("div", { title, "data-figure": name }, el("dt", {}, term), el("dd", {}, value))),
  );
}

/** Prompt tokens that were cached or computed, and generated ones, as one bar to scale. */
function tokens(answer) {
  const timings = answer.timings;
  const parts = [
    ["cached", timings.cache_n, "prompt tokens found in the KV cache"],
    ["computed", timings.prompt_n, "prompt tokens computed"],
    ["generated", timings.predicted_n, "tokens of the answer"],
  ];
  const bar = el("div", { class: "token-bar", "aria-hidden": "true" });
  const legend = el("ul", { class: "legend" });
  for (const [name, value, note] of parts) {
    const part = el("i", { class: name });
    part.style.flexGrow = value;
    if (value) bar.append(part);
    legend.append(
      el("li", { title: note, "data-tokens": name }, el("i", { class: name }), el("b", {}, count(value)), ` ${name}`),
    );
  }
  const prompt = timings.cache_n + timings.prompt_n;
  return el("div", { class: "tokens", "aria-label": `${many(prompt, "prompt token")}` }, bar, legend);
}
