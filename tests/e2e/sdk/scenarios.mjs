#!/usr/bin/env node
// Scenarios of the openai package for JavaScript, run against one server and checked.
//
// usage: scenarios.mjs BASE_URL MODEL --engine emulated|vllm [--skip NAME]...
//
// Prints `ok NAME` or `FAIL NAME: why` for each scenario and ends with `N passed, N failed`; the exit code is 1 if one
// failed. Run it where `openai` is installed (tests/e2e/sdk.sh does).
import assert from "node:assert/strict";
import { parseArgs } from "node:util";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { join } from "node:path";

// The package is resolved from the working directory, because this file may be outside of node_modules' parent.
const { default: OpenAI } = await import(
  pathToFileURL(createRequire(join(process.cwd(), "scenarios.mjs")).resolve("openai"))
);

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { engine: { type: "string" }, skip: { type: "string", multiple: true, default: [] } },
});
const [baseURL, model] = positionals;
if (!baseURL || !model || !["emulated", "vllm"].includes(options.engine)) {
  console.error("usage: scenarios.mjs BASE_URL MODEL --engine emulated|vllm [--skip NAME]...");
  process.exit(2);
}

const client = new OpenAI({ baseURL, apiKey: "unused", timeout: 240_000, maxRetries: 0 });
const ask = (more = {}) => ({ model, messages: [{ role: "user", content: "hello world" }], max_tokens: 24, ...more });
const long = (more = {}) => ask({ max_tokens: 3000, ignore_eos: true, ...more });
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    strict: true,
    parameters: {
      type: "object",
      properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};
const pick = { type: "function", function: { name: "get_weather" } };

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

function checkChunks(chunks) {
  assert.ok(chunks.length >= 2, `only ${chunks.length} chunks`);
  assert.equal(new Set(chunks.map((c) => c.id)).size, 1, "chunks of several responses in one stream");
  assert.ok(chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""), "no text");
  const ends = chunks.map((c) => c.choices[0]?.finish_reason).filter(Boolean);
  assert.equal(ends.length, 1, "no proper end");
}

// Checks that a tool's arguments are complete; an emulated engine generates arbitrary values.
function checkArguments(text) {
  const made = JSON.parse(text);
  assert.ok(options.engine === "emulated" ? Object.keys(made).length : ["Paris", "Rome"].includes(made.city), text);
}

const scenarios = {
  async chat() {
    const answer = await client.chat.completions.create(ask());
    assert.ok(answer.choices[0].message.content);
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  },

  async chat_with_response() {
    const { data, response } = await client.chat.completions.create(ask()).withResponse();
    assert.equal(response.status, 200);
    assert.ok(data.choices[0].message.content);
  },

  async stream() {
    const chunks = await collect(await client.chat.completions.create(ask({ stream: true })));
    checkChunks(chunks);
    assert.ok(chunks.every((c) => !c.usage && c.choices.length === 1), "unrequested usage");
  },

  async stream_with_usage() {
    const params = ask({ stream: true, stream_options: { include_usage: true } });
    const chunks = await collect(await client.chat.completions.create(params));
    checkChunks(chunks);
    assert.ok(chunks.at(-1).usage.completion_tokens > 0);
    assert.deepEqual(chunks.at(-1).choices, []);
  },

  async stream_with_helper() {
    const stream = client.chat.completions.stream(ask());
    let text = "";
    stream.on("content", (delta) => (text += delta));
    assert.equal(await stream.finalContent(), text);
    assert.ok(text);
  },

  async abort() {
    const stream = await client.chat.completions.create(long({ stream: true }));
    let seen = 0;
    for await (const chunk of stream) {
      assert.equal(chunk.object, "chat.completion.chunk");
      if (++seen === 3) stream.controller.abort();
      assert.ok(seen < 1000, "the stream continued after the abort");
    }
    assert.ok((await client.chat.completions.create(ask())).choices[0].message.content);
  },

  async abort_before_answer() {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 300);
    await assert.rejects(client.chat.completions.create(long(), { signal: controller.signal }), OpenAI.APIUserAbortError);
  },

  async timeout() {
    await assert.rejects(client.chat.completions.create(long(), { timeout: 300 }), OpenAI.APIConnectionTimeoutError);
  },

  async tool() {
    const params = ask({ tools: [weather], tool_choice: pick, max_tokens: 200, temperature: 0 });
    const answer = await client.chat.completions.create(params);
    const [call] = answer.choices[0].message.tool_calls;
    assert.equal(call.function.name, "get_weather");
    checkArguments(call.function.arguments);
  },

  async tool_stream() {
    const params = ask({ tools: [weather], tool_choice: pick, max_tokens: 200, temperature: 0, stream: true });
    const calls = (await collect(await client.chat.completions.create(params))).flatMap(
      (c) => c.choices[0]?.delta.tool_calls ?? [],
    );
    assert.equal(calls.map((c) => c.function.name ?? "").join(""), "get_weather");
    checkArguments(calls.map((c) => c.function.arguments ?? "").join(""));
  },

  async two_choices() {
    const answer = await client.chat.completions.create(ask({ n: 2 }));
    assert.deepEqual(answer.choices.map((c) => c.index), [0, 1]);
  },

  async logprobs() {
    const answer = await client.chat.completions.create(ask({ logprobs: true, top_logprobs: 2 }));
    const content = answer.choices[0].logprobs.content;
    assert.ok(content.length > 0 && content.every((t) => t.logprob <= 0 && t.top_logprobs.length >= 2));
  },

  async completions() {
    const answer = await client.completions.create({ model, prompt: "once upon", max_tokens: 16 });
    assert.ok(answer.choices[0].text);
  },

  async completions_stream() {
    const params = { model, prompt: "once upon", max_tokens: 16, stream: true };
    const chunks = await collect(await client.completions.create(params));
    assert.ok(chunks.map((c) => c.choices[0].text).join(""));
  },

  async responses() {
    const answer = await client.responses.create({ model, input: "hello world", max_output_tokens: 24 });
    assert.ok(answer.output.length > 0 && answer.usage.output_tokens > 0);
  },

  async responses_stream() {
    const params = { model, input: "hello world", max_output_tokens: 24, stream: true };
    const kinds = (await collect(await client.responses.create(params))).map((e) => e.type);
    assert.equal(kinds[0], "response.created");
    assert.ok(["response.completed", "response.incomplete"].includes(kinds.at(-1)), kinds.at(-1));
  },

  async models() {
    const names = [];
    for await (const each of client.models.list()) names.push(each.id);
    assert.ok(names.includes(model), names.join());
  },

  async model_by_name() {
    assert.equal((await client.models.retrieve(model)).id, model);
  },

  async unknown_model() {
    const wrong = client.chat.completions.create(ask({ model: "no-such" }));
    await assert.rejects(wrong, (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError, String(error));
      assert.match(error.error.message, /no-such/);
      return true;
    });
  },

  async bad_parameters() {
    await assert.rejects(client.chat.completions.create(ask({ temperature: -5 })), OpenAI.BadRequestError);
    await assert.rejects(client.chat.completions.create(ask({ max_tokens: "many" })), OpenAI.BadRequestError);
  },

  async twenty_streams_at_once() {
    const one = async (i) => {
      const limit = 5 + i; // each stream is known by its own length
      const params = ask({ max_tokens: limit, ignore_eos: true, stream: true, stream_options: { include_usage: true } });
      const chunks = await collect(await client.chat.completions.create(params));
      assert.equal(chunks.at(-1).usage.completion_tokens, limit);
    };
    await Promise.all(Array.from({ length: 20 }, (_, i) => one(i)));
  },
};

let passed = 0;
let failed = 0;
for (const [name, run] of Object.entries(scenarios)) {
  if (options.skip.includes(name)) continue;
  try {
    await run();
    passed += 1;
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}: ${String(error).replaceAll("\n", " ").slice(0, 400)}`);
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed || !passed ? 1 : 0);
