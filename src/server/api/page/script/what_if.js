// What another policy would have done: the shadow's figures, and a replay of the recorded traffic.

const share = (x) => element("b", {}, percent(x));
const showShadow = (second) => {
  const body = byId("shadow-body");
  const shadows = meta.pools.map((pool, index) => [pool, second.pools[index]?.shadow]).filter(([pool, shadow]) => pool.shadow && shadow);
  setHidden(byId("shadow-none"), shadows.length > 0);
  const key = shadows.map(([pool, shadow]) => [pool.name, pool.policy, pool.shadow, shadow.other_share, shadow.cached_share, shadow.shadow_cached_share].join()).join(";");
  if (body.dataset.key === key) return;
  body.dataset.key = key;
  body.replaceChildren(...shadows.map(([pool, shadow]) => {
    if (shadow.other_share == null) return element("p", {}, `${pool.name}: ${pool.shadow} decides too, without effect. No request in the last minute.`);
    return element("p", {}, `${pool.name}: in the last minute ${pool.shadow} would have chosen another replica for `, share(shadow.other_share),
      " of the requests, and found ", share(shadow.shadow_cached_share), " of the prompt tokens cached; ", `${pool.policy} found `, share(shadow.cached_share), ".");
  }));
};

let replayTimer = 0;
const policyRow = (policy, best) => element("tr", {},
  element("th", { scope: "row" }, policy.policy),
  element("td", { class: "n" }, seconds(policy.ttft_p50)),
  element("td", { class: "n" }, seconds(policy.ttft_p95) + (policy === best ? " ✓ least" : "")),
  element("td", { class: "n" }, percent(policy.cached_share)),
  element("td", { class: "n" }, rate(policy.goodput)));
const replayResult = (result) => {
  const [used, ...others] = result.policies;
  const known = result.policies.filter((policy) => policy.ttft_p95 != null);
  const best = known.reduce((a, b) => b.ttft_p95 < a.ttft_p95 ? b : a, known[0]);
  const other = others.filter((policy) => policy.ttft_p95 != null).sort((a, b) => b.ttft_p95 - a.ttft_p95)[0];
  const parts = [];
  if (used?.ttft_p95 != null && other) {
    parts.push(element("p", { class: "lead" }, `With ${other.policy}, TTFT p95 would have been ${seconds(other.ttft_p95)} instead of ${seconds(used.ttft_p95)}` +
      (result.replicas_enough && result.replicas_enough < result.replicas ? `; ${result.replicas_enough} of the ${result.replicas} replicas would do.` : ".")));
  }
  const heads = ["policy", "TTFT p50", "TTFT p95", "cached", "goodput/s"].map((name, index) => element("th", { scope: "col", class: index ? "n" : "" }, name));
  parts.push(element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Result of the replay" },
    element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...result.policies.map((policy) => policyRow(policy, best))))));
  parts.push(element("p", { class: "note" }, `Computed from ${count(result.requests)} recorded requests of ${duration(result.seconds)} on ${result.replicas} replicas, in virtual time.`));
  return parts;
};
const showReplay = (answer) => {
  clearTimeout(replayTimer);
  const button = byId("replay-start");
  setHidden(byId("replay"), answer.state === "off");
  button.disabled = answer.state === "running";
  setText(button, answer.state === "running" ? `Replaying, ${percent(answer.progress ?? 0)}` : answer.state === "done" ? "Replay again" : "Replay the last hour");
  const body = answer.state === "failed" ? [element("p", { class: "state bad" }, `The replay failed: ${answer.error}`)]
    : answer.result ? replayResult(answer.result)
      : answer.state === "running" ? [] : [element("p", { class: "note" }, "Replays the recorded last hour under other policies and with fewer replicas, in the background: one thread, at most a minute.")];
  byId("replay-body").replaceChildren(...body);
  if (answer.state === "running") replayTimer = setTimeout(loadReplay, 1000);
};
const loadReplay = async (method = "GET") => {
  // Without a record there is nothing to replay.
  if (!meta.record) { showReplay({ state: "off" }); return; }
  try {
    showReplay(await fetchJson(method, "/what-if"));
  } catch (error) {
    showReplay(error.status === 404 ? { state: "off" } : { state: "failed", error: error.message });
  }
};
byId("replay-start").addEventListener("click", () => loadReplay("POST"));
