// The conversations kept in this browser's localStorage, one entry each, so that several tabs do not overwrite each
// other's. Where storage is blocked or full, the one on screen works on in memory.

import { read, write } from "./settings.js";

const PREFIX = "lucid.chat.";

/** Older conversations are dropped. */
const MOST = 50;

/** A new, empty conversation. Turns are {question, answer}; answers are made by `newAnswer`. */
export function create() {
  return { id: `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 8)}`, changed: Date.now(), turns: [] };
}

/** An answer of which nothing has arrived. Times are in seconds from the moment of sending. */
export function newAnswer() {
  return {
    state: "running", // then "done", "stopped" or "failed"
    text: "",
    reasoning: "",
    toolCalls: [], // {name, arguments}, as text
    arrivals: [],
    elapsed: 0,
    finishReason: null,
    usage: null,
    timings: null,
    citations: null,
    error: null,
  };
}

/** The conversation's name in lists: how its first question begins. */
export function title(conversation) {
  return conversation.turns[0]?.question.trim().replace(/\s+/g, " ").slice(0, 80) || "Empty";
}

/** The messages of a request that asks the last turn's question. Turns that got no answer are left out. */
export function messages(conversation, system) {
  const list = system ? [{ role: "system", content: system }] : [];
  const last = conversation.turns.at(-1);
  for (const turn of conversation.turns) {
    if (turn !== last && !turn.answer.text) continue;
    list.push({ role: "user", content: turn.question });
    if (turn !== last) list.push({ role: "assistant", content: turn.answer.text });
  }
  return list;
}

/** All stored conversations, the last changed first. */
export function stored() {
  const found = [];
  try {
    for (const name of Object.keys(localStorage)) {
      if (name.startsWith(PREFIX)) found.push(read(localStorage, name));
    }
  } catch {
    return []; // storage is blocked
  }
  const usable = found.filter((entry) => Array.isArray(entry?.turns));
  for (const { answer } of usable.flatMap((entry) => entry.turns)) {
    if (answer.state === "running") answer.state = "stopped"; // its page was closed
  }
  return usable.sort((a, b) => b.changed - a.changed);
}

/** Store a conversation; makes room by dropping the oldest ones. */
export function save(conversation) {
  conversation.changed = Date.now();
  const others = stored().filter((other) => other.id !== conversation.id);
  while (others.length >= MOST) remove(others.pop().id);
  while (!write(localStorage, PREFIX + conversation.id, conversation) && others.length) remove(others.pop().id);
}

/** Forget a conversation. */
export function remove(id) {
  write(localStorage, PREFIX + id, null);
}
