// Talks to the server: one chat completion as a stream of chunks, and the engine's figures. Every failure becomes a
// `ServerError`; an abort stays the browser's AbortError.

import { events } from "./sse.js";

/** What went wrong, in the server's words where it has any. `status` is 0 where there was no HTTP response. */
export class ServerError extends Error {
  constructor(message, { status = 0, code = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    /** Seconds after which the server suggests to try again; null if it suggests nothing. */
    this.retryAfter = retryAfter;
  }
}

/** Yield the chunks of a streamed chat completion. Throws `ServerError`; aborting `signal` ends it on the server too. */
export async function* chat(request, key, signal) {
  const body = { ...request, stream: true, stream_options: { include_usage: true } };
  const response = await send("v1/chat/completions", key, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (!(response.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) {
    throw new ServerError("What answered is not a stream of events; is something between this page and the server?");
  }
  try {
    for await (const { event, data } of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (event === "error" || chunk.error) throw failure(0, chunk, null);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ServerError || error.name === "AbortError") throw error;
    throw new ServerError("The connection broke in the middle of the answer.");
  }
  throw new ServerError("The answer ended in the middle.");
}

/** Return the body of GET /v1/engine. Throws `ServerError`. */
export async function engine(key, signal) {
  const response = await send("v1/engine", key, { signal });
  let body = null;
  try {
    body = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error; // else: cut short, or not JSON, so not from our server
  }
  if (body?.object !== "engine") throw new ServerError("What answered is not the engine; is something between this page and the server?");
  return body;
}

/** Fetch, with the key if there is one; a response that is not a success is thrown. */
async function send(path, key, options) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached.");
  }
  if (response.ok) return response;
  let body = null;
  try {
    body = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error; // else: not JSON, so not from our server
  }
  throw failure(response.status, body, response.headers.get("Retry-After"));
}

function failure(status, body, retryAfter) {
  const error = body?.error ?? {};
  const seconds = Number.parseInt(retryAfter ?? "", 10);
  return new ServerError(String(error.message ?? `The server answered with status ${status}.`), {
    status,
    code: error.code ?? null,
    retryAfter: Number.isNaN(seconds) ? null : seconds,
  });
}
