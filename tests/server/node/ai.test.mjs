// The Vercel AI SDK against the real server, whose address is in BASE_URL.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { cosineSimilarity, embed, embedMany, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({
  name: "lucid", baseURL: process.env.BASE_URL, apiKey: "none", supportsStructuredOutputs: true, includeUsage: true,
});
const model = provider("rusty_llm");
const prompt = "Who was Albert Einstein?";
const settings = { model, prompt, maxRetries: 0 };
const schema = z.object({
  name: z.string().max(30), born: z.number().int(), fields: z.array(z.enum(["physics", "music", "poetry"])).max(2),
});
const tools = {
  get_weather: tool({
    description: "Get the weather of a city",
    inputSchema: z.object({ city: z.string().max(20), unit: z.enum(["C", "F"]) }),
    execute: async ({ city, unit }) => `${city}: 18 degrees ${unit}, sunny`,
  }),
};

test("generateText and streamText", async () => {
  const whole = await generateText({ ...settings, maxOutputTokens: 12, temperature: 0 });
  assert.match(whole.text, /Einstein/);
  assert.equal(whole.finishReason, "length");
  assert.equal(whole.usage.outputTokens, 12);
  const stream = streamText({ ...settings, maxOutputTokens: 12, temperature: 0, onError: ({ error }) => { throw error; } });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.match(text, /Einstein/);
  assert.equal((await stream.usage).outputTokens, 12);
});

test("generateText and streamText of a raw prompt", async () => {
  const raw = { model: provider.completionModel("rusty_llm"), prompt: "hello", maxOutputTokens: 8, temperature: 0, maxRetries: 0 };
  const whole = await generateText(raw);
  assert.equal(whole.usage.outputTokens, 8);
  const stream = streamText({ ...raw, onError: ({ error }) => { throw error; } });
  assert.ok((await stream.text).length > 0);
  assert.equal(await stream.finishReason, "length");
});

test("embed and embedMany", async () => {
  const embedder = provider.textEmbeddingModel("embed");
  const { embedding, usage } = await embed({ model: embedder, value: "A violin sonata" });
  assert.ok(usage.tokens > 2);
  const { embeddings } = await embedMany({ model: embedder, values: ["A sonata for violin", "The price of screws"] });
  assert.ok(cosineSimilarity(embedding, embeddings[0]) > cosineSimilarity(embedding, embeddings[1]) + 0.2);
});

test("generateObject and streamObject", async () => {
  const { object, finishReason } = await generateObject({ ...settings, schema, maxOutputTokens: 200, seed: 1 });
  assert.equal(finishReason, "stop");
  schema.parse(object);
  const stream = streamObject({ ...settings, schema, maxOutputTokens: 200, seed: 2 });
  let parts = 0;
  for await (const _ of stream.partialObjectStream) parts += 1;
  assert.ok(parts > 1);
  schema.parse(await stream.object);
});

test("tools that the SDK runs", async () => {
  const result = await generateText({
    model, prompt: "What is the weather in Paris?", tools, toolChoice: "required", stopWhen: stepCountIs(1),
    maxOutputTokens: 400, maxRetries: 0, seed: 1, temperature: 0,
  });
  assert.equal(result.finishReason, "tool-calls");
  assert.equal(result.toolCalls[0].toolName, "get_weather");
  assert.match(result.toolResults[0].output, /18 degrees/);
});

test("a streamed call, its result, and the answer to it", async () => {
  const stream = streamText({
    model, prompt: "What is the weather in Paris?", tools, maxOutputTokens: 200, maxRetries: 0, temperature: 0, seed: 1,
    stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({
      toolChoice: stepNumber === 0 ? { type: "tool", toolName: "get_weather" } : "none",
    }),
    onError: ({ error }) => { throw error; },
  });
  const kinds = new Set();
  for await (const part of stream.fullStream) kinds.add(part.type);
  for (const kind of ["tool-input-start", "tool-input-delta", "tool-call", "tool-result", "text-delta"]) {
    assert.ok(kinds.has(kind), kind);
  }
  assert.equal((await stream.steps).length, 2);
});
