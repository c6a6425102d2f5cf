// Numbers as people read them. Durations are in seconds.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 0.000085 -> "85 µs", 0.0032 -> "3.2 ms", 0.214 -> "214 ms", 1.416 -> "1.42 s". */
export function duration(seconds) {
  if (seconds < 0.0009995) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 0.00995) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 0.9995) return `${(seconds * 1e3).toFixed(0)} ms`;
  if (seconds < 9.995) return `${seconds.toFixed(2)} s`;
  return `${seconds.toFixed(1)} s`;
}

/** 32768 -> "32,768". */
export function count(value) {
  return grouped.format(value);
}

/** A rate: one decimal below 100, none above. */
export function rate(value) {
  return value < 99.95 ? value.toFixed(1) : grouped.format(value);
}

/** "1 token", "2 tokens". */
export function many(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** The value below which `share` of the sorted values lie (nearest rank). */
export function quantile(sorted, share) {
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

/** Labelled places [seconds, text] on an axis from 0 to `end`, about `most` of them, at 1, 2 or 5 times a power of ten. */
export function axisLabels(end, most) {
  if (!(end > 0)) return [];
  const raw = end / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw * 0.999);
  const [unit, factor] = end >= 1 ? ["s", 1] : end >= 1e-3 ? ["ms", 1e3] : ["µs", 1e6];
  const digits = Math.max(0, -Math.floor(Math.log10(step * factor) + 1e-9));
  const found = [[0, "0"]];
  for (let index = 1; index * step <= end * 1.0001; index += 1) {
    found.push([index * step, `${(index * step * factor).toFixed(digits)} ${unit}`]);
  }
  return found;
}
