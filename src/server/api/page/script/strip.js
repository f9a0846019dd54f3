// The strip: the router's figures, a mark for each pool, and the state of the connection.

const FIGURES = [
  ["uptime", (s) => duration(s.time - meta.started)],
  ["requests/s", (s) => rate(s.router.requests_per_second)],
  ["tokens/s in", (s) => rate(s.router.prompt_tokens_per_second)],
  ["tokens/s out", (s) => rate(s.router.generated_tokens_per_second)],
  ["in flight", (s) => count(s.router.in_flight)],
  ["TTFT p50", (s) => seconds(s.router.ttft_p50)],
  ["TTFT p95", (s) => seconds(s.router.ttft_p95)],
  ["errors/min", (s) => count(s.router.errors_per_minute)],
  ["prompt tokens cached", (s) => percent(s.router.cached_share)],
];
const ERRORS = 7;
const figures = FIGURES.map(([name]) => {
  const value = element("dd", {}, NONE);
  byId("figures").append(element("div", {}, element("dt", {}, name), value));
  return value;
});

// The word and the shape of a pool's state.
const MARKS = { ok: ["✓", "ok"], degraded: ["▲", "degraded"], down: ["✕", "down"] };
const markText = (state) => (MARKS[state] ?? ["?", state]).join(" ");
const SERVING = new Set(["admitted", "busy", "probing"]);

// More marks than this are a sum, and those in trouble.
const MAX_MARKS = 8;
const marks = new Map();
const showMarks = (second) => {
  const trouble = second.pools.filter((pool) => pool.state !== "ok").length;
  const all = second.pools.length <= MAX_MARKS;
  meta.pools.forEach((pool, index) => {
    const figures = second.pools[index];
    if (!figures) return;
    let mark = marks.get(pool.name);
    if (!mark) {
      mark = element("a", { class: "mark" });
      marks.set(pool.name, mark);
      byId("marks").append(mark);
    }
    const href = `#pool-${index}`;
    if (mark.getAttribute("href") !== href) mark.setAttribute("href", href);
    const serving = figures.replicas.filter((row) => SERVING.has(row[0])).length;
    setText(mark, `${pool.name} ${markText(figures.state)}, ${serving} of ${figures.replicas.length} serve`);
    setClass(mark, `mark ${figures.state}`);
    setHidden(mark, !all && figures.state === "ok");
  });
  for (const [name, mark] of marks) {
    if (!meta.pools.some((pool) => pool.name === name)) { mark.remove(); marks.delete(name); }
  }
  setHidden(byId("marks-sum"), all);
  setText(byId("marks-sum"), all ? "" : `${second.pools.length - trouble} of ${second.pools.length} pools ✓ ok`);
};

const showStrip = (second) => {
  FIGURES.forEach(([, text], index) => setText(figures[index], text(second)));
  setClass(figures[ERRORS], second.router.errors_per_minute > 0 ? "bad" : "");
  const down = second.pools.some((pool) => pool.state === "down");
  const degraded = second.pools.some((pool) => pool.state === "degraded");
  document.title = `${down ? "✕ " : degraded ? "▲ " : ""}tokenweir ${rate(second.router.requests_per_second)} req/s`;
  showMarks(second);
};

byId("reload").addEventListener("click", () => confirmChange("Reload the configuration", [
  element("p", {}, "The file is read again and checked whole first. If it has an error, nothing changes. Requests under way are not touched."),
], "Reload", async () => {
  const report = await fetchJson("POST", "/reload");
  return [report.changed || "nothing has changed", ...(report.notes ?? [])].join("\n");
}));

// Shows the state of the connection: `wait`, `live` or `lost`.
const showLink = (state, text) => {
  const link = byId("link");
  if (link.dataset.state !== state) link.dataset.state = state;
  setText(link, text);
  document.body.classList.toggle("stale", state === "lost");
};
let noticeTimer = 0;
const showNotice = (text) => {
  setText(byId("notice"), text);
  byId("notice").hidden = text === "";
  clearTimeout(noticeTimer);
  if (text) noticeTimer = setTimeout(() => showNotice(""), 20000);
};
