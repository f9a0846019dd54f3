// The last requests as they happen, and the whole decision of one.

const MAX_REQUESTS = 50;
const WHY = {
  affinity: "Most of its prompt is believed cached there",
  passed_over: "Another replica has more of it cached, but the wait there is longer",
  load: "No replica has it cached; the least load",
  sticky: "The session is pinned to it",
  retried: "Another replica failed first",
  only: "The only candidate",
  first_free: "All were busy; the first that was free",
  policy: "By the policy alone",
  none: "No replica could be chosen",
};
const OUTCOME_KINDS = { completed: "good", client_gone: "parked", refused: "warn", busy: "warn", failed: "bad", router_error: "bad", no_replica: "bad" };
const requests = new Map();
let paused = false;
let missed = 0;

// Text of each cell of a row, in the order of the table's head.
const TAP_CELLS = [
  (r) => clock(r.time),
  (r) => r.pool,
  (r) => r.model ?? NONE,
  (r) => r.key ?? NONE,
  (r) => r.replica ?? NONE,
  (r) => words(r.why) + (r.attempts > 1 ? `, attempt ${r.attempts}` : ""),
  (r) => count(r.prompt_tokens),
  (r) => r.cached_tokens == null ? NONE : `${count(r.cached_tokens)} · ${percent(r.prompt_tokens ? r.cached_tokens / r.prompt_tokens : 0)}`,
  (r) => count(r.completion_tokens),
  (r) => seconds(r.ttft),
  (r) => r.duration != null ? seconds(r.duration) : last && !r.outcome ? `${duration(last.time - r.time)} so far` : NONE,
  (r) => words(r.outcome ?? "running"),
];
const [TAP_WHY, TAP_PROMPT, TAP_DURATION, TAP_OUTCOME] = [5, 6, 10, 11];
class TapRow {
  constructor() {
    this.request = null;
    this.cells = TAP_CELLS.map((_, index) => element("td", { class: index >= TAP_PROMPT && index < TAP_OUTCOME ? "n" : index === 3 ? "key" : "" }));
    this.button = element("button", { onclick: () => explain(this.request) }, "explain");
    this.root = element("tr", { onclick: (event) => { if (event.target !== this.button) explain(this.request); } }, ...this.cells, element("td", {}, this.button));
  }
  show(request) {
    if (this.request !== request) {
      this.request = request;
      this.button.setAttribute("aria-label", `Explain request ${request.id}`);
    }
    TAP_CELLS.forEach((text, index) => setText(this.cells[index], text(request)));
    const why = WHY[request.why] ?? "";
    if (this.cells[TAP_WHY].title !== why) this.cells[TAP_WHY].title = why;
    this.cells[TAP_DURATION].classList.toggle("quiet", !request.outcome);
    setClass(this.cells[TAP_OUTCOME], `state ${request.outcome ? OUTCOME_KINDS[request.outcome] ?? "warn" : "running"}`);
  }
}
const tapBody = byId("tap-table").tBodies[0];
const tapRows = [];

const addRequests = (rows) => {
  for (const row of rows) {
    const request = toObject(meta.request_fields, row);
    if (paused && !requests.has(request.id)) missed += 1;
    if (paused) { if (requests.has(request.id)) requests.set(request.id, request); continue; }
    requests.set(request.id, request);
  }
  if (requests.size <= MAX_REQUESTS) return;
  const oldest = [...requests.values()].sort((a, b) => a.time - b.time).slice(0, requests.size - MAX_REQUESTS);
  oldest.forEach((request) => requests.delete(request.id));
};
const showTap = () => {
  if (!meta) return;
  byId("tap-table").classList.toggle("no-keys", !meta.has_keys);
  const filter = byId("tap-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = (r) => {
    const text = [r.model, r.replica, r.key, words(r.outcome ?? "running"), words(r.why), r.pool, r.id].join(" ").toLowerCase();
    return filter.every((word) => text.includes(word));
  };
  const shown = [...requests.values()].filter(matches).sort((a, b) => b.time - a.time);
  // The row of the focused button stays the row of its request.
  const focused = tapRows.find((row) => row.button === document.activeElement);
  const place = focused ? shown.findIndex((request) => request.id === focused.request.id) : -1;
  while (tapRows.length < shown.length) tapRows.push(new TapRow());
  if (place >= 0 && tapRows[place] !== focused) {
    tapRows.splice(tapRows.indexOf(focused), 1);
    tapRows.splice(place, 0, focused);
  }
  tapRows.forEach((row, index) => {
    if (index < shown.length) row.show(shown[index]); else row.root.remove();
  });
  placeRows(tapBody, tapRows.slice(0, shown.length), place >= 0 ? focused : null);
  const empty = !meta.explain ? "Decisions are not kept. Set explain = 1000 in the configuration, and reload."
    : requests.size ? "No request matches the filter." : "No request yet. Send one with a block from Connect, below.";
  setText(byId("tap-note"), shown.length ? "" : empty);
  setText(byId("tap-count"), paused ? `paused, ${missed} newer` : filter.length ? `${shown.length} of ${requests.size} match` : "");
};
byId("tap-filter").addEventListener("input", showTap);
byId("pause").addEventListener("click", () => {
  paused = !paused;
  missed = 0;
  byId("pause").setAttribute("aria-pressed", String(paused));
  setText(byId("pause"), paused ? "Resume" : "Pause");
  showTap();
});

// ---- one decision ----
const term = (value) => value == null ? NONE : typeof value !== "number" ? String(value) : Number.isInteger(value) || Math.abs(value) >= 1000 ? count(value) : value.toFixed(2);
// Why the policy's choice was taken, or another.
const reasonText = (reason) => reason === "policy" ? "by the policy" : words(reason ?? "no reason");
const sentence = (...parts) => element("p", {}, parts.filter(Boolean).join(" "));
const candidatesTable = (attempt) => {
  const names = [...new Set(attempt.candidates.flatMap((candidate) => Object.keys(candidate.terms ?? {})))];
  const head = element("tr", {}, element("th", { scope: "col" }, "candidate"), ...names.map((name) => element("th", { scope: "col", class: "n" }, words(name))));
  const rows = attempt.candidates.map((candidate) => {
    const chosen = candidate.name === attempt.chosen;
    return element("tr", { class: chosen ? "chosen" : "" }, element("th", { scope: "row" }, (chosen ? "▸ " : "") + candidate.name),
      ...names.map((name) => element("td", { class: "n" }, term(candidate.terms?.[name]))));
  });
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Candidates" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
};
const attemptView = (attempt, index) => {
  const { result } = attempt;
  const skipped = (attempt.skipped ?? []).map(({ name, reason }) => `${name} (${words(reason)})`).join(", ");
  const ended = result && [
    `${words(result.outcome)} after ${seconds(result.duration_seconds)}`,
    result.ttft_seconds != null && `first token after ${seconds(result.ttft_seconds)}`,
    result.prompt_tokens != null && `${result.prompt_tokens} prompt tokens`,
    result.cached_tokens != null && `${result.cached_tokens} of them cached`,
    result.completion_tokens != null && `${result.completion_tokens} generated`,
  ].filter(Boolean).join(", ");
  return element("section", { class: "attempt" },
    element("h3", {}, `attempt ${index + 1}`),
    sentence(`${clock(Date.parse(attempt.time) / 1000)}, pool ${attempt.pool}, policy ${attempt.policy},`, attempt.model && `model ${attempt.model},`, attempt.key && `key ${attempt.key},`, `prompt of ${attempt.prompt_tokens} tokens.`),
    attempt.candidates?.length ? candidatesTable(attempt) : "",
    sentence(`chosen: ${attempt.chosen ?? "none"}, ${reasonText(attempt.reason)}.`, attempt.estimated_cached_tokens != null && `${attempt.estimated_cached_tokens} of its tokens were believed cached there.`),
    skipped ? sentence(`skipped: ${skipped}.`) : "",
    attempt.omitted_replicas ? sentence(`${attempt.omitted_replicas} more replicas are not listed.`) : "",
    sentence(ended ? `ended: ${ended}.` : "It still runs."));
};
const explain = async (request) => {
  try {
    const decision = await fetchJson("GET", `/explain/${encodeURIComponent(request.id)}`);
    const why = WHY[request.why];
    await show(`Why ${request.replica ?? "no replica"}?`,
      element("p", { class: "lead" }, why ? `${why}.` : ""),
      ...decision.attempts.map(attemptView),
      element("p", { class: "note" }, `Request ${request.id}. In a terminal: tokenweir explain ${request.id}`));
  } catch (error) {
    await show("No decision", error.status === 404 ? "This decision is no longer kept. Set explain in the configuration to keep more." : error.message);
  }
};
