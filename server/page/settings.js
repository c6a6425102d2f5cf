// The settings dialog and what it means for requests. Values stay in this browser; the API key stays in memory, or in
// sessionStorage if that is wished, and is never written anywhere else.

const STORE = "lucid.settings";
const KEY_STORE = "lucid.key";
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

/** What the page itself decides, so that "further fields" cannot change it. */
const RESERVED = ["messages", "stream", "stream_options", "n"];

export class Settings {
  #dialog;
  #fields;
  #keyField;
  #keepKey;
  #values;
  #key;

  /** `onKey` is called when the API key has changed. */
  constructor(onKey) {
    this.#dialog = document.getElementById("settings");
    this.#fields = [...this.#dialog.querySelectorAll("[name]")];
    this.#keyField = document.getElementById("set-key");
    this.#keepKey = document.getElementById("set-keep-key");
    this.#values = read(localStorage, STORE) ?? {};
    this.#key = read(sessionStorage, KEY_STORE) ?? "";
    this.#keepKey.checked = this.#key !== "";
    this.#show();

    for (const field of this.#fields) field.addEventListener("input", () => this.#take(field));
    this.#dialog.addEventListener("close", () => this.#show());
    this.#dialog.addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true);
    const takeKey = () => {
      this.#key = this.#keyField.value.trim();
      write(sessionStorage, KEY_STORE, this.#keepKey.checked && this.#key ? this.#key : null);
    };
    this.#keyField.addEventListener("input", takeKey);
    this.#keepKey.addEventListener("change", takeKey);
    this.#keyField.addEventListener("change", onKey);
    document.getElementById("open-settings").addEventListener("click", () => this.open());
    document.getElementById("reset-settings").addEventListener("click", () => {
      this.#values = {};
      write(localStorage, STORE, null);
      this.#show();
    });
  }

  /** The API key, "" if there is none. */
  get key() {
    return this.#key;
  }

  /** The system prompt, "" if there is none. */
  get system() {
    return this.#values.system ?? "";
  }

  /** Show the dialog; with `wantKey` at the field of the API key. */
  open({ wantKey = false } = {}) {
    this.#dialog.showModal();
    if (wantKey) this.#keyField.focus();
  }

  /** Fields of a chat completion request. What is not set is left out, so that the server's default holds. */
  request() {
    const values = this.#values;
    const fields = {};
    for (const name of NUMBERS) if (values[name]) fields[name] = Number(values[name]);
    const passages = Number(values.passages) || null;
    if (values.knowledge === "off") fields.knowledge = false;
    else if (passages) fields.knowledge = { top_k: passages };
    else if (values.knowledge === "on") fields.knowledge = true;
    if (values.extra) Object.assign(fields, parseExtra(values.extra));
    return fields;
  }

  /** Keep a field's value if it is valid; otherwise the last valid one stands. */
  #take(field) {
    if (field.name === "extra") this.#checkExtra(field);
    if (!field.checkValidity()) return;
    this.#values[field.name] = field.value.trim() === "" ? "" : field.value;
    write(localStorage, STORE, this.#values);
  }

  #checkExtra(field) {
    let problem = "";
    try {
      if (field.value.trim()) parseExtra(field.value);
    } catch (error) {
      problem = error.message;
    }
    field.setCustomValidity(problem);
    const shown = document.getElementById("set-extra-error");
    shown.textContent = problem;
    shown.hidden = !problem;
  }

  #show() {
    for (const field of this.#fields) {
      field.value = this.#values[field.name] ?? "";
      if (field.name === "extra") this.#checkExtra(field);
    }
    this.#keyField.value = this.#key;
  }
}

function parseExtra(text) {
  const value = JSON.parse(text);
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error("This must be a JSON object.");
  const reserved = RESERVED.find((name) => name in value);
  if (reserved) throw new Error(`${reserved} is set by the page itself.`);
  return value;
}

/** Return what is stored under `name`; null if there is nothing, or storage is blocked. */
export function read(storage, name) {
  try {
    return JSON.parse(storage.getItem(name));
  } catch {
    return null;
  }
}

/** Store `value` as JSON under `name`; null removes it. Return whether that worked. */
export function write(storage, name, value) {
  try {
    if (value === null) storage.removeItem(name);
    else storage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
