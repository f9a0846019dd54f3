// Drives the live page. Arguments: folder of packages, page, router, page with 256 replicas, control file, folder for
// screenshots. Fails at the first thing that is not as it should be.
import assert from "node:assert/strict";
import fs from "node:fs";
import { createRequire } from "node:module";

const [home, url, router, manyUrl, control, screenshots] = process.argv.slice(2);
const require = createRequire(`${home}/package.json`);
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const ok = (text) => console.log(`ok ${text}`);

// Conversations that share a beginning, until the end of the process.
let loading = true;
const chat = async (session) => {
  let text = `You are the assistant of customer ${session}. `.repeat(60);
  while (loading) {
    text += "And then? ".repeat(20);
    const body = JSON.stringify({ model: "emulated-8b", stream: true, max_tokens: 60, messages: [{ role: "user", content: text }] });
    try {
      const response = await fetch(`${router}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" }, body });
      await response.text();
    } catch { /* the router restarts */ }
    await pause(300);
  }
};
const load = Array.from({ length: 6 }, (_, session) => chat(session));

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
const messages = [];
const open = async (target, width, scheme) => {
  const context = await browser.newContext({ viewport: { width, height: width < 500 ? 844 : 900 }, colorScheme: scheme });
  const page = await context.newPage();
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) messages.push(message.text()); });
  page.on("pageerror", (error) => messages.push(String(error)));
  await page.goto(target);
  await page.waitForFunction(() => window.tokenweir.last, null, { timeout: 10000 });
  return page;
};
const pools = async () => (await fetch(new URL("/pools", url))).json();
const stateOf = async (name) => (await pools())[0].replicas.find((replica) => replica.name === name).state;

const page = await open(url, 1440, "light");
await pause(5000);
const shown = await page.locator("#pools tbody tr").evaluateAll((rows) => rows.map((row) => row.children[0].textContent));
assert.deepEqual(shown, ["gpu0", "gpu1", "gpu2"]);
assert.match(await page.locator("#figures").innerText(), /requests\/s/);
assert.ok(await page.evaluate(() => window.tokenweir.last.router.generated_tokens_per_second > 0), "tokens are counted");
assert.ok(await page.locator("#tap-table tbody tr").count() > 3, "requests are shown");
assert.equal(await page.locator("#charts canvas").count(), 4);
ok("figures, requests and charts");

const confirm = async () => {
  await page.locator("#dialog-ok").click();
  await page.waitForFunction(() => document.getElementById("dialog-cancel").hidden);
  const text = await page.locator("#dialog-body").innerText();
  await page.locator("#dialog-ok").click();
  return text;
};
await page.getByRole("button", { name: "drain gpu1", exact: true }).click();
assert.match(await confirm(), /gpu1 is drained/);
assert.equal(await stateOf("gpu1"), "drained");
await page.waitForFunction(() => document.querySelectorAll("#pools tbody tr")[1].children[1].textContent.startsWith("drained"));
await page.getByRole("button", { name: "undrain gpu1", exact: true }).click();
assert.match(await confirm(), /gpu1 is admitted/);
await page.getByRole("button", { name: "down gpu2", exact: true }).click();
assert.match(await confirm(), /gpu2 is down/);
await page.getByRole("button", { name: "up gpu2", exact: true }).click();
assert.match(await confirm(), /gpu2 is admitted/);
await page.getByRole("button", { name: "weight gpu0", exact: true }).click();
await page.locator("#weight-input").fill("2");
assert.match(await confirm(), /weight 2/);
await page.getByRole("button", { name: "Switch policy" }).click();
await page.locator("#policy-select").selectOption("least_conn");
assert.match(await confirm(), /chooses by least_conn/);
assert.equal((await pools())[0].policy, "least_conn");
await page.getByRole("button", { name: "Reload configuration" }).click();
await confirm();
assert.equal((await pools())[0].policy, "token_cost");
ok("drain, down, weight, policy, reload");

await page.getByRole("button", { name: "Pause" }).click();
await page.locator("#tap-table tbody button").last().click();
await page.waitForSelector("#dialog[open]");
assert.match(await page.locator("#dialog-body").innerText(), /attempt 1[\s\S]*chosen: gpu/);
await page.keyboard.press("Escape");
await page.getByRole("button", { name: "Resume" }).click();
await page.locator("#tap-filter").fill("gpu0");
await pause(1500);
const replicas = await page.locator("#tap-table tbody tr").evaluateAll((rows) => rows.map((row) => row.children[4].textContent));
assert.ok(replicas.length > 0 && replicas.every((name) => name === "gpu0"), replicas.join());
await page.locator("#tap-filter").fill("");
await page.getByRole("button", { name: "in flight" }).click();
assert.equal(await page.locator("#pools th[aria-sort=descending]").count(), 1);
ok("explain, filter, sort");

for (const [width, scheme] of [[390, "light"], [390, "dark"], [1440, "light"], [1440, "dark"], [2560, "light"], [2560, "dark"]]) {
  const other = await open(url, width, scheme);
  await pause(1500);
  const overflow = await other.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `${width} px: the page is ${overflow} px too wide`);
  if (screenshots) await other.screenshot({ path: `${screenshots}/page-${scheme}-${width}.png` });
  await other.context().close();
  // axe-core is a script that the page's policy forbids.
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: scheme, bypassCSP: true });
  const checked = await context.newPage();
  await checked.goto(url);
  await checked.waitForFunction(() => window.tokenweir.last);
  await checked.evaluate(axe);
  const { violations } = await checked.evaluate(() => window.axe.run());
  assert.deepEqual(violations.map((v) => `${v.id}: ${v.nodes[0].html}`), [], `${width} px, ${scheme}`);
  await context.close();
}
ok("three widths, two schemes: no axe violation, no overflow");

const plain = await browser.newContext({ javaScriptEnabled: false });
const still = await plain.newPage();
await still.goto(url);
assert.match(await still.locator("table.plain").first().innerText(), /gpu0/);
await plain.close();
ok("table without scripts");
assert.deepEqual(messages, []);
ok("no console error");

fs.writeFileSync(control, "stop\n");
await page.waitForFunction(() => document.getElementById("link").dataset.state === "lost", null, { timeout: 15000 });
fs.writeFileSync(control, "start\n");
await page.waitForFunction(() => document.getElementById("link").dataset.state === "live", null, { timeout: 20000 });
await page.waitForFunction(() => window.tokenweir.history.seconds < 60);
ok("router stopped and back");
messages.length = 0;
loading = false;
await Promise.all(load);
await page.context().close();

const many = await open(manyUrl, 1440, "light");
assert.equal(await many.locator("#pools tbody tr").count(), 256);
const frames = await many.evaluate(() => new Promise((resolve) => {
  const times = [];
  const begun = performance.now();
  const step = (now) => { times.push(now); if (now - begun < 6000) requestAnimationFrame(step); else resolve(times); };
  requestAnimationFrame(step);
}));
const gaps = frames.slice(1).map((time, index) => time - frames[index]).sort((a, b) => a - b);
const at = (share) => gaps[Math.floor(gaps.length * share)].toFixed(1);
console.log(`256 replicas: ${gaps.length} frames in 6 s, gap p50 ${at(0.5)} ms, p95 ${at(0.95)} ms, p99 ${at(0.99)} ms`);
assert.ok(gaps[Math.floor(gaps.length * 0.5)] < 20, "the usual frame is one of 60 a second");
assert.deepEqual(messages, []);
ok("256 replicas");
await browser.close();
