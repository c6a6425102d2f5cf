// One turn of the conversation on screen: the question, the answer as it grows, what can be done with it, its trace.

import { copy, el } from "./dom.js";
import { render } from "./format.js";
import { passages } from "./passages.js";
import { Trace } from "./trace.js";

export class TurnView {
  #turn;
  #text;
  #reasoning;
  #calls;
  #passages;
  #problem;
  #actions;
  #trace;
  #handlers;

  /** `handlers`: `again(turn)` asks the question anew, `enterKey()` shows where the API key goes. */
  constructor(turn, number, handlers) {
    this.#turn = turn;
    this.#handlers = handlers;
    this.#text = el("div", { class: "text" });
    this.#reasoning = el("details", { class: "reasoning", hidden: true }, el("summary", {}, "Reasoning"), el("div", {}));
    this.#calls = el("ul", { class: "calls" });
    this.#passages = el("div", {});
    this.#problem = el("div", {});
    this.#actions = el("div", { class: "answer-actions" });
    this.#trace = new Trace(turn.answer);
    this.element = el(
      "article",
      { class: "turn", "aria-label": `Turn ${number}` },
      el("div", { class: "question" }, el("h3", {}, "You"), el("p", {}, turn.question)),
      el("div", { class: "answer" }, el("h3", {}, "Answer"), this.#reasoning, this.#text, this.#calls, this.#problem, this.#passages, this.#actions),
      this.#trace.element,
    );
    this.showText();
    this.showEnd();
  }

  /** Draw the text that has arrived. */
  showText() {
    const { text, reasoning, toolCalls, state } = this.#turn.answer;
    render(this.#text, text);
    this.#text.classList.toggle("running", state === "running");
    this.#calls.replaceChildren(
      ...toolCalls.map((call) => el("li", {}, "Calls ", el("code", {}, `${call.name}(${call.arguments})`))),
    );
    if (reasoning) {
      this.#reasoning.hidden = false;
      this.#reasoning.lastElementChild.textContent = reasoning;
    }
  }

  /** Draw the trace. */
  showTrace() {
    this.#trace.update();
  }

  /** Draw what is known only, or may be done only, when nothing more will come. */
  showEnd() {
    const { state, text, toolCalls, error, citations } = this.#turn.answer;
    const over = state !== "running";
    this.element.setAttribute("aria-busy", String(!over));
    this.#passages.replaceChildren(passages(citations) ?? "");
    this.#problem.replaceChildren(over ? (this.#explanation(error) ?? "") : "");
    if (over && !text && !error && !toolCalls.length) {
      this.#problem.replaceChildren(el("p", { class: "hint" }, state === "stopped" ? "Stopped before the first token." : "The answer has no text."));
    }
    this.#actions.replaceChildren();
    if (!over) return;
    if (text) {
      const button = el("button", { type: "button", class: "quiet" }, "Copy");
      button.addEventListener("click", () => copy(text, button));
      this.#actions.append(button);
    }
    if (!error) this.#actions.append(this.#again("Regenerate"));
  }

  #again(label) {
    const again = () => this.#handlers.again(this.#turn);
    return el("button", { type: "button", class: "quiet again", onclick: again }, label);
  }

  /** What went wrong, in plain words, and what to do. */
  #explanation(error) {
    if (!error) return null;
    const [headline, advice] = words(error);
    const enterKey = el("button", { type: "button", onclick: this.#handlers.enterKey }, "Enter the key");
    return el(
      "div",
      { class: "problem", role: "alert" },
      el("p", {}, el("strong", {}, headline), advice ? ` ${advice}` : ""),
      el("p", { class: "problem-actions" }, error.status === 401 ? enterKey : null, this.#again("Try again")),
    );
  }
}

/** Return a headline and what to add to it for an error of a server's answer. */
function words({ status, code, message, retryAfter }) {
  const wait = retryAfter ? `It suggests to try again in ${retryAfter} s.` : "";
  if (status === 401) return ["The server asks for an API key.", message];
  if (status === 503 && code === "model_loading") return ["The model is still loading.", wait];
  if (status === 503) return ["The server cannot take the request now.", `${message} ${wait}`.trim()];
  if (code === "context_length_exceeded") return ["The conversation is too long.", `${message} A new chat begins with an empty one.`];
  if (status === 400) return ["The server refused the request.", message];
  if (status >= 500) return ["The server failed.", message];
  return [message, ""];
}
