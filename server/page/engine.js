// The live strip: what the engine does now, from GET /v1/engine, asked each second while the page is visible.

import { engine, ServerError } from "./client.js";
import { el, svg } from "./dom.js";
import { count, rate } from "./numbers.js";

const SECOND = 1000;

/** Samples of the small graphs. */
const HISTORY = 60;

/** Wait between attempts while the server does not answer, in milliseconds. */
const PATIENCE = 3 * SECOND;

export class EngineStrip {
  #key;
  #gauges = {};
  #history = {};
  #last = null;
  #timer = null;
  #asking = null;
  #model = document.getElementById("model");

  /** `key()` returns the API key of the moment. */
  constructor(key) {
    this.#key = key;
    for (const gauge of document.querySelectorAll("#engine .gauge")) {
      this.#gauges[gauge.dataset.gauge] = gauge;
      this.#history[gauge.dataset.gauge] = [];
    }
    document.addEventListener("visibilitychange", () => this.restart());
    this.restart();
  }

  /** Ask now and go on, or stop if the page is hidden. */
  restart() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    if (!document.hidden) this.#ask();
  }

  async #ask() {
    const asking = new AbortController();
    this.#asking = asking;
    let pause = PATIENCE;
    try {
      this.#show(await engine(this.#key(), asking.signal));
      pause = SECOND;
    } catch (error) {
      if (asking.signal.aborted) return;
      if (!(error instanceof ServerError)) throw error;
      this.#fail(error);
    } finally {
      // However it went, the strip goes on.
      if (!asking.signal.aborted && this.#asking === asking) this.#timer = setTimeout(() => this.#ask(), pause);
    }
  }

  #show(body) {
    const { now, totals, plan } = body;
    this.#model.textContent = body.model;
    this.#model.disabled = false;
    document.getElementById("engine").classList.remove("stale");
    this.#gauge("running", now.running, `${now.running} / ${plan.parallel}`, plan.parallel);
    this.#gauge("waiting", now.waiting, count(now.waiting), Math.max(4, ...this.#history.waiting));
    const used = now.kv_cells_used / now.kv_cells;
    this.#gauge("kv", used, `${(100 * used).toFixed(used < 0.0995 ? 1 : 0)} %`, 1);
    this.#gauges.kv.querySelector("meter").value = used;
    this.#gauges.kv.title =
      `${count(now.kv_cells_used)} of ${count(now.kv_cells)} cells; ${now.sequences_cached} of ${now.sequences} sequences hold a reusable prefix`;
    this.#rates(body, totals);
    this.#plan(body);
    this.#last = body;
  }

  /** Tokens per second since the last answer of the same server process. */
  #rates(body, totals) {
    const last = this.#last?.worker === body.worker ? this.#last : null;
    const seconds = last ? body.clock_seconds - last.clock_seconds : 0;
    for (const [gauge, counter] of [["decode", "generated_tokens"], ["prefill", "prefill_tokens"]]) {
      if (!(seconds > 0)) continue;
      const value = (totals[counter] - last.totals[counter]) / seconds;
      this.#gauge(gauge, value, value ? rate(value) : "0", Math.max(10, value, ...this.#history[gauge]));
    }
  }

  #gauge(name, value, shown, top) {
    const gauge = this.#gauges[name];
    const history = this.#history[name];
    history.push(value);
    if (history.length > HISTORY) history.shift();
    const text = gauge.querySelector("dd");
    if (text.textContent !== shown) text.textContent = shown;
    gauge.classList.toggle("zero", value === 0);
    spark(gauge.querySelector("svg"), history, top);
  }

  #fail(error) {
    const brief = error.status === 401 ? "needs a key" : error.code === "model_loading" ? "loading" : error.status ? `error ${error.status}` : "unreachable";
    this.#model.textContent = brief;
    this.#model.title = error.message;
    this.#model.disabled = true;
    this.#last = null;
    const strip = document.getElementById("engine");
    strip.classList.add("stale");
    for (const value of strip.querySelectorAll("dd")) value.textContent = "–";
  }

  #plan(body) {
    const { plan, totals } = body;
    const on = (value) => (value ? "on" : "off");
    const list = [
      ["Model", `${body.description} (${body.file})`],
      ["At once", `${plan.parallel} requests of up to ${count(plan.context)} tokens`],
      ["Threads", `${plan.threads} decode, ${plan.threads_batch} batch`],
      ["Flash attention", on(plan.flash_attention)],
      ["KV cache", `${plan.kv_type}, ${plan.kv_layout === "unified" ? "one pool" : "a stream per sequence"}`],
      ["Prefill chunk", `up to ${count(plan.largest_chunk)} tokens`],
      ["Calibration", { measured: "measured at this start", cached: "measured at an earlier start", off: "off" }[plan.calibrated]],
      ["Tokens", `${count(totals.generated_tokens)} generated, ${count(totals.prefill_tokens)} computed and ${count(totals.cached_tokens)} cached prompt tokens`],
      ["Steps", `${count(totals.steps)} in ${totals.busy_seconds.toFixed(1)} s`],
      ["Requests", `${count(totals.finished)} finished, ${count(totals.cancelled)} cancelled, ${count(totals.rejected)} rejected, ${count(totals.failed)} failed`],
      ["Process", String(body.worker)],
    ];
    this.#model.title = "The engine's settings";
    document.querySelector("#plan dl").replaceChildren(
      ...list.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))),
    );
  }
}

/** Draw a history as a filled line; the newest sample is at the right edge. */
function spark(image, values, top) {
  const points = values.map((value, index) => `${HISTORY - values.length + index} ${(20 - (18 * value) / top).toFixed(2)}`);
  const line = `M${points.join("L")}`;
  const start = HISTORY - values.length;
  image.setAttribute("viewBox", `0 0 ${HISTORY - 1} 20`);
  image.setAttribute("preserveAspectRatio", "none");
  image.replaceChildren(
    svg("path", { class: "area", d: `${line}L${HISTORY - 1} 20L${start} 20Z` }),
    svg("path", { class: "line", d: line }),
  );
}
