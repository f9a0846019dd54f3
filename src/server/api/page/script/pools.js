// The pools: a table of replicas each, updated in place.

const GOOD = new Set(["admitted"]);
const BAD = new Set(["ejected", "not_ready"]);
const PARKED = new Set(["draining", "drained", "down"]);
// The shape in front of a state is the style's.
const stateKind = (state) => GOOD.has(state) ? "good" : BAD.has(state) ? "bad" : PARKED.has(state) ? "parked" : "warn";

const slowness = (f) => f.prefill_slowdown === 1 && f.decode_slowdown === 1 ? "1×" : `${f.prefill_slowdown}× ${f.decode_slowdown}×`;
const external = (f) => f.external_requests ? `${count(f.external_requests)}, ${count(f.external_tokens)} t` : count(f.external_requests);

// Group, head, sorting key, text (none: the column writes itself), class, title.
const COLUMNS = [
  ["", "replica", (f) => f.name, null, "name", "Name, as in the configuration"],
  ["", "state", (f) => f.state, null, "state", "State, reason, and since when"],
  ["tokens held", "resident, of KV cache", (f) => f.resident_tokens, null, "kv", "Prompt and generated tokens of all requests in flight; hatched: load of others"],
  ["tokens held", "in prefill", (f) => f.prefill_tokens, (f) => count(f.prefill_tokens), "n", "Prompt tokens of requests without a first token"],
  ["requests", "in flight", (f) => f.in_flight, (f) => count(f.in_flight), "n", "Requests sent and not ended"],
  ["requests", "decoding", (f) => f.decoding, (f) => count(f.decoding), "n", "Streams that have sent their first token"],
  ["tokens/s", "in", (f) => f.prompt_tokens_per_second, (f) => rate(f.prompt_tokens_per_second), "n", "Prompt tokens per second"],
  ["tokens/s", "out", (f) => f.generated_tokens_per_second, (f) => rate(f.generated_tokens_per_second), "n", "Generated tokens per second"],
  ["TTFT", "p50", (f) => f.ttft_p50, (f) => seconds(f.ttft_p50), "n", "Median time to first token, last 10 s"],
  ["TTFT", "p95", (f) => f.ttft_p95, (f) => seconds(f.ttft_p95), "n", "Time to first token of the slowest 5 %, last 10 s"],
  ["cache hits", "believed", (f) => f.believed_hits, (f) => percent(f.believed_hits), "n", "Share of prompt tokens that the router expected to be cached, last minute"],
  ["cache hits", "reported", (f) => f.reported_hits, (f) => percent(f.reported_hits), "n", "Share of prompt tokens that the engine reported as cached, last minute"],
  ["", "external", (f) => f.external_requests, external, "n", "Requests and tokens that did not come through this router"],
  ["", "failures", (f) => f.failures, (f) => count(f.failures), "n", "Failures within fail_timeout"],
  ["", "weight", (f) => f.weight, null, "n", "Weight; during slow start, the part in effect"],
  ["", "slowness", (f) => Math.max(f.prefill_slowdown, f.decode_slowdown), slowness, "n wide", "Learned time per token in prefill and decode; 1 is the median of the pool"],
];
const STATE = 1, KV = 2, WEIGHT = 14;
// Longer tables scroll on their own.
const LONG = 24;

// Only rows in view are written.
const inView = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const row = entry.target.replicaRow;
    row.visible = entry.isIntersecting;
    if (row.visible && last) row.update(last.time);
  }
}, { rootMargin: "200px" });

const stateLine = (view, name) => {
  const lines = (Array.isArray(view) ? view : [view]).flatMap((pool) => pool.replicas.filter((r) => r.name === name)
    .map((r) => `${pool.pool}: ${r.name} is ${r.state}, weight ${r.weight}, ${r.in_flight} requests in flight`));
  return lines.join("\n") || "done";
};

class PoolView {
  constructor() {
    this.sort = { column: -1, descending: false };
    this.sortedAt = 0;
    this.rows = [];
    this.mark = element("span", { class: "mark" });
    this.reason = element("span", { class: "reason" });
    this.facts = {};
    const facts = element("dl");
    for (const name of ["policy", "models", "imbalance", "waiting", "shadow"]) {
      this.facts[name] = element("dd", {}, NONE);
      facts.append(element("div", {}, element("dt", {}, name), this.facts[name]));
    }
    this.onlyTrouble = element("input", { type: "checkbox", onchange: () => this.update(last) });
    this.title = element("h2");
    const head = element("div", { class: "head" }, this.title, this.mark, this.reason, facts, element("div", { class: "end" },
      element("label", {}, this.onlyTrouble, " Only trouble"),
      element("button", { onclick: () => this.switchPolicy() }, "Switch policy")));
    this.heads = COLUMNS.map(([, name, , , kind, title], column) => element("th", { scope: "col", "aria-sort": "none", class: kind, title },
      element("button", { onclick: () => this.sortBy(column) }, name)));
    this.body = element("tbody");
    const columns = COLUMNS.map(([, , , , kind]) => element("col", { class: kind }));
    const table = element("table", { class: "replicas" }, element("colgroup", {}, ...columns, element("col", { class: "act" })),
      element("thead", {}, this.groups(), element("tr", {}, ...this.heads, element("th", { scope: "col", class: "act" }, "actions"))), this.body);
    this.region = element("div", { class: "scroll", tabindex: 0, role: "region" }, table);
    this.none = element("p", { class: "note pad", hidden: true });
    this.root = element("article", { class: "pool" }, head, this.region, this.none);
  }
  groups() {
    const row = element("tr", { class: "groups" });
    for (let column = 0; column < COLUMNS.length;) {
      const [name] = COLUMNS[column];
      let span = 1;
      while (name && COLUMNS[column + span]?.[0] === name) span += 1;
      row.append(name ? element("th", { scope: "colgroup", colspan: span }, name) : element("td"));
      column += span;
    }
    row.append(element("td"));
    return row;
  }
  applyMeta(pool, index) {
    this.pool = pool;
    this.index = index;
    this.root.id = `pool-${index}`;
    setText(this.title, pool.name);
    setText(this.facts.policy, pool.policy);
    setText(this.facts.models, pool.models.join(", ") || "any");
    this.region.setAttribute("aria-label", `Replicas of ${pool.name}`);
    this.region.classList.toggle("long", pool.replicas.length > LONG);
    const known = new Map(this.rows.map((row) => [row.replica.name, row]));
    const order = pool.replicas.map((replica) => {
      const row = known.get(replica.name) ?? new ReplicaRow(this);
      known.delete(replica.name);
      row.applyMeta(replica);
      return row;
    });
    known.forEach((row) => row.remove());
    const same = order.length === this.rows.length && order.every((row, at) => row === this.rows[at]);
    this.rows = order;
    if (!same) placeRows(this.body, order);
  }
  sortBy(column) {
    this.sort = { column, descending: this.sort.column === column ? !this.sort.descending : column > STATE };
    this.heads.forEach((head, at) => head.setAttribute("aria-sort", at !== column ? "none" : this.sort.descending ? "descending" : "ascending"));
    this.sortedAt = 0;
    this.update(last);
  }
  update(second) {
    const figures = second?.pools[this.index];
    if (!figures) return;
    setClass(this.mark, `mark ${figures.state}`);
    setText(this.mark, markText(figures.state));
    setText(this.reason, figures.reason ? words(figures.reason) : "");
    setText(this.facts.imbalance, times(figures.imbalance));
    setText(this.facts.waiting, count(figures.waiting));
    const differs = figures.shadow?.other_share;
    setText(this.facts.shadow, !this.pool.shadow ? "none" : differs == null ? this.pool.shadow : `${this.pool.shadow} differs ${percent(differs)}`);
    let shown = 0;
    figures.replicas.forEach((values, index) => {
      const row = this.rows[index];
      if (!row) return;
      row.figures = toObject(meta.replica_fields, values);
      row.figures.name = row.replica.name;
      const hide = this.onlyTrouble.checked && GOOD.has(row.figures.state) && !row.figures.failures;
      setHidden(row.root, hide);
      if (hide) return;
      shown += 1;
      if (row.visible) row.update(second.time);
    });
    setHidden(this.none, shown > 0);
    setText(this.none, this.rows.length ? "No replica is in trouble." : "This pool has no replica. Add one to replicas in the configuration, and reload.");
    if (this.sort.column >= 0 && second.time - this.sortedAt >= 3) {
      this.sortedAt = second.time;
      this.reorder();
    }
  }
  reorder() {
    const read = COLUMNS[this.sort.column][2];
    const sign = this.sort.descending ? -1 : 1;
    placeRows(this.body, this.rows.map((row) => [row.figures ? read(row.figures) : null, row]).sort(([x], [y]) => {
      if (x == null || y == null) return (x == null) - (y == null);
      return sign * (typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y);
    }).map(([, row]) => row));
  }
  switchPolicy() {
    const { pool } = this;
    const options = meta.policies.includes(pool.policy) ? meta.policies : [pool.policy, ...meta.policies];
    const select = element("select", { id: "policy-select" }, ...options.map((policy) => element("option", { value: policy, selected: policy === pool.policy }, policy)));
    confirmChange(`Switch the policy of ${pool.name}`, [
      element("p", {}, element("label", { for: "policy-select" }, "Policy "), select),
      element("p", { class: "note" }, "It holds until the next reload. Requests under way stay where they are."),
    ], "Switch", async () => {
      const view = await fetchJson("PUT", `/pools/${encodeURIComponent(pool.name)}/policy`, { policy: select.value });
      return `${pool.name} chooses by ${view.policy}`;
    });
  }
}

class ReplicaRow {
  constructor(view) {
    this.view = view;
    this.replica = null;
    this.figures = null;
    this.visible = false;
    this.name = element("th", { scope: "row", class: "name" });
    this.stateText = element("span");
    this.stateNote = element("small");
    this.own = element("i");
    this.others = element("i", { class: "others" });
    this.barText = element("b");
    this.barShare = element("em");
    this.cells = COLUMNS.map(([, , , , kind]) => element("td", { class: kind }));
    this.cells[0] = this.name;
    this.cells[STATE].append(this.stateText, " ", this.stateNote);
    this.cells[KV].append(element("span", { class: "bar" }, this.own, this.others, this.barText, this.barShare));
    this.buttons = ["drain", "down", "weight"].map((action) => element("button", { onclick: () => this[action]() }));
    this.root = element("tr", {}, ...this.cells, element("td", { class: "act" }, ...this.buttons));
    this.root.replicaRow = this;
    inView.observe(this.root);
  }
  remove() {
    inView.unobserve(this.root);
    this.root.remove();
  }
  applyMeta(replica) {
    this.replica = replica;
    setText(this.name, replica.name);
    this.name.title = replica.url + (replica.backup ? ", backup" : "");
    this.label(this.buttons[2], "weight");
  }
  label(button, action) {
    setText(button, action);
    const label = `${action} ${this.replica.name}`;
    if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
  }
  update(time) {
    const f = this.figures;
    if (!f) return;
    const kind = stateKind(f.state);
    setClass(this.root, kind);
    setText(this.stateText, words(f.state));
    const left = f.ejected_until > time ? `${duration(f.ejected_until - time)} left` : null;
    const note = [f.reason, f.since && time > f.since ? duration(time - f.since) : null, left, this.replica.backup ? "backup" : null];
    setText(this.stateNote, note.filter(Boolean).join(", "));
    COLUMNS.forEach(([, , , text], column) => { if (text) setFigure(this.cells[column], text(f)); });
    const { weight } = this.replica;
    setText(this.cells[WEIGHT], f.weight === weight ? String(weight) : `${f.weight.toFixed(2)} of ${weight}`);
    this.cells[WEIGHT].classList.toggle("slow", f.weight < weight);
    this.showBar(f);
    this.label(this.buttons[0], f.state === "drained" ? "undrain" : "drain");
    this.label(this.buttons[1], f.state === "down" ? "up" : "down");
  }
  showBar(f) {
    const share = f.kv_tokens ? Math.min(1, f.resident_tokens / f.kv_tokens) : 0;
    const others = f.kv_tokens ? Math.min(1 - share, (f.external_tokens ?? 0) / f.kv_tokens) : 0;
    const place = (bar, transform) => { if (bar.style.transform !== transform) bar.style.transform = transform; };
    place(this.own, `scaleX(${share.toFixed(3)})`);
    place(this.others, `translateX(${(share * 100).toFixed(1)}%) scaleX(${others.toFixed(3)})`);
    setClass(this.own, share + others > 0.9 ? "full" : "");
    setText(this.barText, f.kv_tokens ? `${count(f.resident_tokens)} of ${count(f.kv_tokens)}` : count(f.resident_tokens));
    setText(this.barShare, f.kv_tokens ? percent(share + others) : "");
  }
  get path() { return `/pools/${encodeURIComponent(this.view.pool.name)}/replicas/${encodeURIComponent(this.replica.name)}`; }
  drain() {
    const { name } = this.replica;
    const drained = this.figures?.state === "drained";
    const verb = drained ? "Undrain" : "Drain";
    const now = this.figures ? ` It has ${count(this.figures.in_flight)} in flight now.` : "";
    confirmChange(`${verb} ${name}`, [
      element("p", {}, drained ? "It gets requests again." : `It gets no new requests, in any pool; those under way end as usual.${now}`),
    ], verb, async () => stateLine(await fetchJson(drained ? "DELETE" : "POST", `/replicas/${encodeURIComponent(name)}/drain`), name));
  }
  down() {
    const { name } = this.replica;
    const down = this.figures?.state === "down";
    confirmChange(`Take ${name} ${down ? "back into service" : "out of service"}`, [
      element("p", {}, down ? "It gets requests again in this pool." : "It is marked down in this pool until the next reload; requests under way end as usual."),
    ], down ? "Up" : "Down", async () => stateLine(await fetchJson("PUT", this.path, { down: !down }), name));
  }
  weight() {
    const { name } = this.replica;
    const input = element("input", { id: "weight-input", type: "number", min: 1, max: 65535, value: this.replica.weight, required: true });
    confirmChange(`Weight of ${name}`, [
      element("p", {}, element("label", { for: "weight-input" }, "Weight "), input),
      element("p", { class: "note" }, "A replica of weight 2 gets twice the load of one of weight 1. It holds until the next reload."),
    ], "Set", async () => stateLine(await fetchJson("PUT", this.path, { weight: Number(input.value) }), name));
  }
}

let poolViews = [];
const showPools = () => {
  const root = byId("pools");
  const known = new Map(poolViews.map((view) => [view.pool.name, view]));
  const views = meta.pools.map((pool, index) => {
    const view = known.get(pool.name) ?? new PoolView();
    view.applyMeta(pool, index);
    return view;
  });
  const same = views.length === poolViews.length && views.every((view, index) => view === poolViews[index]);
  poolViews = views;
  if (same) return;
  root.replaceChildren(...views.map((view) => view.root));
  if (!views.length) root.append(element("p", { class: "note card pad" }, "There is no pool yet. Add one to the configuration, replicas = [\"http://HOST:8000\"], and reload."));
};
