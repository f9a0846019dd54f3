// What to paste to use this router.

// The address of the first listener, as this browser would reach it.
const clientBase = () => {
  const listeners = meta.listen.map((text) => text.replace(/^https?:\/\//, "")).filter((text) => !text.startsWith("unix:"));
  const chosen = listeners.find((text) => !/\sssl\b/.test(text)) ?? listeners[0] ?? "8080";
  const [address] = chosen.split(" ");
  const [, host = "", port] = address.match(/^(?:(.*):)?(\d+)$/) ?? [];
  const wildcard = ["", "*", "0.0.0.0", "[::]"].includes(host);
  const name = wildcard ? location.hostname : host;
  return { base: `${/\sssl\b/.test(chosen) ? "https" : "http"}://${name}:${port}`, local: /^(127\.|localhost|\[::1\])/.test(name) };
};
const blocksFor = (base, model, key) => {
  const header = meta.has_keys ? ` -H 'authorization: Bearer ${key}'` : "";
  return [
    ["curl", `curl -N ${base}/v1/chat/completions${header} \\\n  -H 'content-type: application/json' \\\n  -d '{"model":"${model}","stream":true,"messages":[{"role":"user","content":"hi"}]}'`],
    ["OpenAI SDK", `from openai import OpenAI\n\nclient = OpenAI(base_url="${base}/v1", api_key="${key}")\nstream = client.chat.completions.create(\n    model="${model}", stream=True, messages=[{"role": "user", "content": "hi"}])\nfor chunk in stream:\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="", flush=True)`],
    ["Claude Code", `export ANTHROPIC_BASE_URL=${base} ANTHROPIC_AUTH_TOKEN=${key}\nexport ANTHROPIC_MODEL=${model} ANTHROPIC_DEFAULT_HAIKU_MODEL=${model} CLAUDE_CODE_ATTRIBUTION_HEADER=0\nclaude\n\n# or, with all of its settings, where tokenweir is installed:\ntokenweir launch claude --url ${base} --model ${model}`],
    ["Codex", `# ~/.codex/config.toml\nmodel = "${model}"\nmodel_provider = "tokenweir"\nmodel_context_window = 131072\n\n[model_providers.tokenweir]\nname = "tokenweir"\nbase_url = "${base}/v1"\nwire_api = "responses"${meta.has_keys ? "\nenv_key = \"TOKENWEIR_API_KEY\"" : ""}\n\n# or, without a file: tokenweir launch codex --url ${base} --model ${model}`],
    ["OpenCode", `// opencode.json\n{\n  "model": "tokenweir/${model}",\n  "small_model": "tokenweir/${model}",\n  "provider": {\n    "tokenweir": {\n      "npm": "@ai-sdk/openai-compatible",\n      "options": { "baseURL": "${base}/v1", "apiKey": "${key}" },\n      "models": { "${model}": { "limit": { "context": 131072, "output": 32000 } } }\n    }\n  }\n}`],
  ];
};
let chosenBlock = 0;
const chooseBlock = (index) => {
  chosenBlock = index;
  [...byId("tabs").children].forEach((tab, at) => {
    tab.setAttribute("aria-selected", String(at === index));
    tab.tabIndex = at === index ? 0 : -1;
  });
  showConnect();
};
const showConnect = () => {
  const models = [...new Set(meta.pools.flatMap((pool) => pool.models))].filter((name) => !name.includes("*"));
  const select = byId("connect-model");
  if (select.dataset.models !== models.join()) {
    select.dataset.models = models.join();
    select.replaceChildren(...(models.length ? models : ["MODEL"]).map((name) => element("option", {}, name)));
  }
  setHidden(select.parentElement, models.length < 2);
  const { base, local } = clientBase();
  const blocks = blocksFor(base, select.value, meta.has_keys ? "YOUR_KEY" : "none");
  if (!byId("tabs").childElementCount) {
    byId("tabs").append(...blocks.map(([title], index) => element("button", { role: "tab", id: `tab-${index}`, "aria-controls": "snippet", "aria-selected": String(index === 0), tabindex: index ? -1 : 0, onclick: () => chooseBlock(index) }, title)));
  }
  setText(byId("snippet-text"), blocks[chosenBlock][1]);
  byId("snippet").setAttribute("aria-labelledby", `tab-${chosenBlock}`);
  setText(byId("connect-note"), [
    meta.has_keys ? "This router needs an API key: put yours in place of YOUR_KEY." : "This router needs no API key; programs that want one take any text.",
    blocks[chosenBlock][1].includes("131072") ? "Put the context length of your model in place of 131072." : "",
    local ? "The router listens on this machine only; set listen in the configuration to open it to others." : "",
  ].filter(Boolean).join(" "));
};
byId("connect-model").addEventListener("change", showConnect);
byId("tabs").addEventListener("keydown", (event) => {
  const tabs = byId("tabs").children;
  const step = { ArrowRight: 1, ArrowLeft: tabs.length - 1 }[event.key];
  if (!step) return;
  chooseBlock((chosenBlock + step) % tabs.length);
  tabs[chosenBlock].focus();
});
byId("copy").addEventListener("click", async () => {
  const copy = byId("copy");
  const text = byId("snippet-text").textContent;
  try {
    await navigator.clipboard.writeText(text);
    setText(copy, "Copied");
  } catch {
    // Without https there is no clipboard: the text is selected for the keyboard.
    getSelection().selectAllChildren(byId("snippet-text"));
    setText(copy, "Selected: press Ctrl+C");
  }
  setTimeout(() => setText(copy, "Copy"), 2500);
});
