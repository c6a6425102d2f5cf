// Server-sent events out of a stream of bytes (HTML Living Standard, 9.2.6), however the bytes are cut into chunks.

/** Yield {event, data} for each event of `stream`, a ReadableStream of bytes. Comments and fields we have no use for
 *  are skipped; an event that the end of the stream cuts off is dropped, as the standard has it. */
export async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder(); // drops a byte order mark, keeps characters that are cut in two
  const parser = new Parser();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {}); // the consumer left early, or the stream has failed already
  }
}

class Parser {
  #rest = "";
  #data = [];
  #event = "";

  /** Take in text; return the events that it completes. */
  push(text) {
    const found = [];
    this.#rest += text;
    let start = 0;
    for (;;) {
      const match = this.#lineEnd(start);
      if (match === null) break;
      this.#line(this.#rest.slice(start, match.at), found);
      start = match.next;
    }
    this.#rest = this.#rest.slice(start);
    return found;
  }

  /** Where the line from `start` ends and the next begins. A CR at the very end may be half of a CR LF: wait. */
  #lineEnd(start) {
    for (let at = start; at < this.#rest.length; at += 1) {
      const character = this.#rest[at];
      if (character === "\n") return { at, next: at + 1 };
      if (character !== "\r") continue;
      if (at + 1 === this.#rest.length) return null;
      return { at, next: this.#rest[at + 1] === "\n" ? at + 2 : at + 1 };
    }
    return null;
  }

  #line(line, found) {
    if (line === "") {
      if (this.#data.length) found.push({ event: this.#event || "message", data: this.#data.join("\n") });
      this.#data = [];
      this.#event = "";
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment; servers send them to keep a connection open
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
  }
}
