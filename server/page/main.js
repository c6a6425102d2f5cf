// The page's own logic: sends questions, reads the streams, keeps the conversations, and handles keys and buttons.

import { chat, ServerError } from "./client.js";
import * as store from "./conversations.js";
import { announce, el } from "./dom.js";
import { EngineStrip } from "./engine.js";
import { duration, many, rate } from "./numbers.js";
import { Settings } from "./settings.js";
import { TurnView } from "./turn.js";

/** The trace of a running answer is drawn this often, in milliseconds. */
const TRACE_EVERY = 150;

const find = (id) => document.getElementById(id);
const scroller = find("scroller");
const transcript = find("transcript");
const prompt = find("prompt");

const settings = new Settings(() => strip.restart());
const strip = new EngineStrip(() => settings.key);

let conversation = store.create();
/** The AbortController of the answer that is on its way, or null. */
let running = null;

const handlers = {
  again(turn) {
    stop();
    conversation.turns.length = conversation.turns.indexOf(turn);
    while (transcript.children.length > conversation.turns.length) transcript.lastElementChild.remove();
    ask(turn.question);
  },
  enterKey: () => settings.open({ wantKey: true }),
};

/** Ask a question at the end of the conversation, and show the answer as it arrives. */
async function ask(question) {
  stop();
  const turn = { question, answer: store.newAnswer() };
  const home = conversation;
  home.turns.push(turn);
  const view = show(turn);
  scrollDown();
  keep(home);

  const abort = new AbortController();
  running = abort;
  setRunning(true);
  announce("Answering");
  try {
    await receive(turn.answer, view, store.messages(home, settings.system), abort.signal);
    turn.answer.state = "done";
  } catch (error) {
    if (error.name === "AbortError") {
      turn.answer.state = "stopped";
    } else {
      turn.answer.state = "failed";
      const known = error instanceof ServerError;
      const { message, status = 0, code = null, retryAfter = null } = error;
      turn.answer.error = { message: known ? message : `The page failed: ${message}`, status, code, retryAfter };
      if (!known) console.error(error);
    }
  }
  if (running === abort) {
    running = null;
    setRunning(false);
  }
  keepingPlace(() => {
    view.showText();
    view.showTrace();
    view.showEnd();
  });
  announce(summary(turn.answer));
  keep(home);
}

function keep(changed) {
  if (!changed.deleted) store.save(changed);
  listConversations();
}

/** Read the stream into `answer` and draw it. Raises what the client raises. */
async function receive(answer, view, messages, signal) {
  const sent = performance.now();
  const elapsed = () => (performance.now() - sent) / 1000;
  let frame = 0;
  const draw = () => {
    frame = 0;
    keepingPlace(() => view.showText());
  };
  const clock = setInterval(() => {
    answer.elapsed = elapsed();
    keepingPlace(() => view.showTrace());
  }, TRACE_EVERY);
  try {
    for await (const chunk of chat({ messages, ...settings.request() }, settings.key, signal)) {
      take(chunk, answer, elapsed());
      frame ||= requestAnimationFrame(draw);
    }
  } finally {
    clearInterval(clock);
    cancelAnimationFrame(frame);
    answer.elapsed = elapsed();
  }
}

/** Add a chunk, which arrived at `time`, to the answer. */
function take(chunk, answer, time) {
  const choice = chunk.choices?.find((candidate) => candidate.index === 0);
  const text = choice?.delta?.content ?? "";
  const reasoning = choice?.delta?.reasoning_content ?? "";
  answer.text += text;
  answer.reasoning += reasoning;
  const calls = choice?.delta?.tool_calls ?? [];
  for (const { index, function: part } of calls) {
    const call = (answer.toolCalls[index] ??= { name: "", arguments: "" });
    call.name += part?.name ?? "";
    call.arguments += part?.arguments ?? "";
  }
  if (text || reasoning || calls.length) answer.arrivals.push(Math.round(time * 1e5) / 1e5);
  answer.finishReason = choice?.finish_reason ?? answer.finishReason;
  answer.usage = chunk.usage ?? answer.usage;
  answer.timings = chunk.timings ?? answer.timings;
  answer.citations = chunk.citations ?? answer.citations;
}

function stop() {
  running?.abort();
}

function summary({ state, timings, error }) {
  if (state === "stopped") return "Stopped";
  if (state === "failed") return `Failed: ${error.message}`;
  if (!timings) return "Answered";
  return `Answered: ${many(timings.predicted_n, "token")} in ${duration(timings.total_seconds)}, ${rate(timings.predicted_per_second)} per second`;
}

// What is on screen

function show(turn) {
  const view = new TurnView(turn, transcript.children.length + 1, handlers);
  transcript.append(view.element);
  find("empty").hidden = true;
  return view;
}

function setRunning(on) {
  find("send").hidden = on;
  find("stop").hidden = !on;
  transcript.setAttribute("aria-busy", String(on));
}

function scrollDown() {
  scroller.scrollTop = scroller.scrollHeight;
}

/** Change the page with `change`; if its end was in view, it stays in view. */
function keepingPlace(change) {
  const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 48;
  change();
  if (atEnd) scrollDown();
}

function open(chosen) {
  stop();
  conversation = chosen;
  transcript.replaceChildren();
  find("empty").hidden = chosen.turns.length > 0;
  for (const turn of chosen.turns) show(turn);
  scrollDown();
  listConversations();
  showChats(false);
  prompt.focus();
}

function listConversations() {
  find("chats").querySelector("ol").replaceChildren(
    ...store.stored().map((entry) => {
      const name = store.title(entry);
      const current = entry.id === conversation.id;
      const remove = () => {
        store.remove(entry.id);
        if (!current) return listConversations();
        conversation.deleted = true;
        open(store.create());
      };
      return el(
        "li",
        {},
        el("button", { type: "button", class: "chat", "aria-current": current ? "true" : null, onclick: () => open(entry) }, name),
        el("button", { type: "button", class: "quiet remove", "aria-label": `Delete “${name}”`, title: "Delete", onclick: remove }, "✕"),
      );
    }),
  );
}

function showChats(on) {
  document.body.classList.toggle("chats-open", on);
  find("toggle-chats").setAttribute("aria-expanded", String(on));
}

/** Let the message field be as high as its text, up to what CSS allows. */
function fitPrompt() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

function submit() {
  const question = prompt.value.trim();
  if (!question || running) return;
  prompt.value = "";
  fitPrompt();
  ask(question);
}

find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
prompt.addEventListener("input", fitPrompt);
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
find("stop").addEventListener("click", () => {
  stop();
  prompt.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open], [popover]:popover-open")) return;
  if (document.body.classList.contains("chats-open")) showChats(false);
  else stop();
});
find("new-chat").addEventListener("click", () => open(store.create()));
find("toggle-chats").addEventListener("click", () => showChats(!document.body.classList.contains("chats-open")));
find("examples").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) ask(button.textContent);
});

listConversations();
