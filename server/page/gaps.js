// The gaps between tokens as this browser saw them: a strip on the waterfall's time axis, and their statistics.

import { el, svg } from "./dom.js";
import { duration, many, quantile } from "./numbers.js";

const HEIGHT = 100; // of the image's own coordinates; CSS scales it
const WIDTH = 1000;

/** Return {median, p95, longest} in seconds of the gaps between `arrivals`, or null if there are none. */
export function statistics(arrivals) {
  if (arrivals.length < 2) return null;
  const gaps = arrivals.slice(1).map((time, index) => time - arrivals[index]);
  gaps.sort((a, b) => a - b);
  return { median: quantile(gaps, 0.5), p95: quantile(gaps, 0.95), longest: gaps.at(-1), count: gaps.length };
}

/** Draw the gaps as lines that stand where a piece of text arrived and are as high as the wait for it was long. */
export function draw(arrivals, end) {
  const figures = statistics(arrivals);
  if (figures === null) return null;
  const x = (seconds) => ((WIDTH * seconds) / end).toFixed(1);
  const y = (seconds) => (HEIGHT - (0.92 * HEIGHT * seconds) / (figures.longest || 1)).toFixed(1);
  let path = "";
  for (let index = 1; index < arrivals.length; index += 1) {
    path += `M${x(arrivals[index])} ${HEIGHT}V${y(arrivals[index] - arrivals[index - 1])}`;
  }
  const image = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { d: path, class: "gap" }),
    svg("path", { d: `M${x(arrivals[0])} ${y(figures.p95)}H${x(arrivals.at(-1))}`, class: "p95" }),
  );
  const words = [
    ["median", figures.median],
    ["p95", figures.p95],
    ["longest", figures.longest],
  ].map(([name, seconds]) => el("div", {}, el("dt", {}, name), el("dd", { "data-gap": name }, duration(seconds))));
  return el(
    "div",
    { class: "gaps", title: `${many(figures.count, "gap")} between pieces of text, measured in this browser` },
    el("div", { class: "strip" }, el("span", {}, "gaps"), el("div", { class: "track" }, image)),
    el("dl", {}, ...words),
  );
}
