// The openai package for Node against the real server, whose address is in BASE_URL.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: "none", maxRetries: 0 });
const model = "rusty_llm";
const uncached = { cache_prompt: false };
const messages = [{ role: "user", content: "Who was Albert Einstein?" }];

const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Get the weather of a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string", maxLength: 20 }, unit: { type: "string", enum: ["C", "F"] } },
      required: ["city", "unit"],
      additionalProperties: false,
    },
  },
};
const ask = [{ role: "user", content: "What is the weather in Paris?" }];

test("a chat completion, and the same one streamed", async () => {
  const request = { model, messages, max_tokens: 12, temperature: 0, ...uncached };
  const whole = await client.chat.completions.create(request);
  assert.equal(whole.choices[0].finish_reason, "length");
  assert.equal(whole.usage.completion_tokens, 12);
  const stream = await client.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } });
  let text = "";
  let usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, 12);
});

test("the SDK's own accumulation of a stream", async () => {
  const final = await client.chat.completions
    .stream({ model, messages, max_tokens: 12, temperature: 0, ...uncached })
    .finalChatCompletion();
  assert.match(final.choices[0].message.content, /Einstein/);
});

test("structured output that the SDK parses", async () => {
  const Person = z.object({ name: z.string().max(30), born: z.number().int(), alive: z.boolean() });
  const completion = await client.chat.completions.parse({
    model, messages, max_tokens: 200, seed: 1, response_format: zodResponseFormat(Person, "person"),
  });
  const person = completion.choices[0].message.parsed;
  assert.equal(completion.choices[0].finish_reason, "stop");
  assert.equal(typeof person.name, "string");
  assert.ok(Number.isInteger(person.born));
});

test("a required call of a tool", async () => {
  const completion = await client.chat.completions.create({
    model, messages: ask, tools: [weather], tool_choice: "required", parallel_tool_calls: false, max_tokens: 200, seed: 1,
  });
  const [choice] = completion.choices;
  assert.equal(choice.finish_reason, "tool_calls");
  assert.equal(choice.message.content, null);
  const [call] = choice.message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city", "unit"]);
});

test("a streamed call, and its result in the next request", async () => {
  const stream = client.chat.completions.stream({
    model, messages: ask, tools: [weather], tool_choice: "required", parallel_tool_calls: false, max_tokens: 200, seed: 1,
  });
  const final = await stream.finalChatCompletion();
  const [choice] = final.choices;
  assert.equal(choice.finish_reason, "tool_calls");
  const [call] = choice.message.tool_calls;
  JSON.parse(call.function.arguments);
  const next = await client.chat.completions.create({
    model, tools: [weather], max_tokens: 16,
    messages: [...ask, choice.message, { role: "tool", tool_call_id: call.id, content: "18 degrees, sunny" }],
  });
  assert.ok(next.usage.prompt_tokens > final.choices.length);
});

test("a completion of text and of token ids, whole and streamed", async () => {
  const request = { model, prompt: "The capital of France is", max_tokens: 6, temperature: 0, ...uncached };
  const whole = await client.completions.create({ ...request, echo: true, logprobs: 1 });
  const [{ text, logprobs }] = whole.choices;
  assert.ok(text.startsWith(request.prompt) && text.length > request.prompt.length);
  assert.equal(logprobs.tokens.join(""), text);
  assert.equal(whole.usage.completion_tokens, 6);
  const { tokens } = await client.post("/../tokenize", { body: { content: request.prompt } });
  let streamed = request.prompt;
  for await (const chunk of await client.completions.create({ ...request, prompt: tokens, stream: true })) {
    streamed += chunk.choices[0].text;
  }
  assert.equal(streamed, text);
});

test("embeddings as base64, which the SDK asks for by itself, and as numbers", async () => {
  const input = ["A violin sonata", "A sonata for violin", "The price of screws"];
  const { data, usage } = await client.embeddings.create({ model: "embed", input });
  const plain = await client.embeddings.create({ model: "embed", input, encoding_format: "float" });
  assert.deepEqual(data.map(({ index }) => index), [0, 1, 2]);
  assert.ok(usage.prompt_tokens > 9 && usage.prompt_tokens === plain.usage.prompt_tokens);
  const dot = (a, b) => a.embedding.reduce((sum, value, i) => sum + value * b.embedding[i], 0);
  data.forEach((item, i) => assert.ok(Math.abs(dot(item, plain.data[i]) - 1) < 1e-5));
  assert.ok(dot(data[0], data[1]) > dot(data[0], data[2]) + 0.2);
});

test("a response, and the same one streamed", async () => {
  const request = { model, input: messages[0].content, max_output_tokens: 12, temperature: 0, ...uncached };
  const whole = await client.responses.create(request);
  assert.match(whole.output_text, /Einstein/);
  const final = await client.responses.stream(request).finalResponse();
  assert.equal(final.output_text, whole.output_text);
  assert.equal(final.usage.output_tokens, 12);
});

test("models and errors", async () => {
  const models = await client.models.list();
  assert.equal(models.data[0].id, model);
  await assert.rejects(client.chat.completions.create({ model: "other", messages }), OpenAI.NotFoundError);
  await assert.rejects(
    client.chat.completions.create({ model, messages, temperature: 9 }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature",
  );
});
