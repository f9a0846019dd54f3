"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const SECONDS = 900;
  const PALETTE = ["#0b7285", "#d9822b", "#5f3dc4", "#2b8a3e", "#c2255c", "#1971c2", "#9c7400", "#087f5b", "#862e9c", "#e8590c"];
  const OUTCOMES = { completed: "#2b8a3e", client_gone: "#868e96", refused: "#1971c2", busy: "#d9822b", failed: "#c92a2a", router_error: "#862e9c" };
  const GOOD = new Set(["admitted"]);
  const BAD = new Set(["ejected", "not_ready"]);
  // The column, its head, the reading of a row, its text, and whether it is a number.
  const COLUMNS = [
    ["replica", (r) => r.name],
    ["state", (r) => r.state],
    ["weight", (r) => r.weight],
    ["in flight", (r) => r.in_flight],
    ["prefill tok", (r) => r.prefill_tokens],
    ["decoding", (r) => r.decoding],
    ["resident tokens of KV", (r) => r.resident_tokens],
    ["in tok/s", (r) => r.prompt_tokens_per_second],
    ["out tok/s", (r) => r.generated_tokens_per_second],
    ["TTFT p50", (r) => r.ttft_p50],
    ["p95", (r) => r.ttft_p95],
    ["hits believed", (r) => r.believed_hits],
    ["reported", (r) => r.reported_hits],
    ["external", (r) => r.external_requests],
    ["failures", (r) => r.failures],
    ["slowness", (r) => r.prefill_slowdown],
  ];
  let meta = null;
  let history = null;
  let last = null;
  let paused = false;
  const requests = new Map();
  const charts = [];
  const poolViews = [];

  // ---- text ----
  const count = (n) => n == null ? "–" : n < 10000 ? String(Math.round(n)) : n < 1e6 ? (n / 1e3).toFixed(n < 1e5 ? 1 : 0) + "k" : (n / 1e6).toFixed(1) + "M";
  const rate = (n) => n == null ? "–" : n < 10 ? n.toFixed(1) : count(n);
  const seconds = (s) => s == null ? "–" : s < 1 ? Math.round(s * 1000) + " ms" : s.toFixed(s < 10 ? 2 : 1) + " s";
  const percent = (x) => x == null ? "–" : Math.round(x * 100) + " %";
  const duration = (s) => s < 60 ? s + " s" : s < 3600 ? Math.floor(s / 60) + " min" : s < 86400 ? Math.floor(s / 3600) + " h " + Math.floor(s % 3600 / 60) + " min" : Math.floor(s / 86400) + " d";
  const clock = (t) => new Date(t * 1000).toTimeString().slice(0, 8);
  const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };
  const element = (tag, props = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(props)) {
      if (key === "class") node.className = value;
      else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value === true) node.setAttribute(key, "");
      else if (value !== false && value != null) node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  };
  const toObject = (fields, row) => Object.fromEntries(fields.map((name, index) => [name, row[index]]));

  // ---- theme ----
  const stored = (key, value) => {
    try { return value === undefined ? localStorage.getItem(key) : localStorage.setItem(key, value); } catch { return null; }
  };
  const applyTheme = (dark) => {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    byId("theme").setAttribute("aria-pressed", String(dark));
    charts.forEach((chart) => chart.restyle());
  };
  const isDark = () => document.documentElement.dataset.theme === "dark";
  byId("theme").addEventListener("click", () => { applyTheme(!isDark()); stored("theme", isDark() ? "dark" : "light"); });
  applyTheme((stored("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (e) => { if (!stored("theme")) applyTheme(e.matches); });

  // ---- dialogs and changes ----
  const dialog = byId("dialog");
  const ask = (title, body, okText) => new Promise((resolve) => {
    setText(byId("dialog-title"), title);
    byId("dialog-body").replaceChildren(...body);
    setText(byId("dialog-result"), "");
    setText(byId("dialog-ok"), okText ?? "Close");
    byId("dialog-cancel").hidden = okText == null;
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true });
    dialog.showModal();
  });
  const change = async (method, path, body) => {
    const options = { method, headers: body ? { "content-type": "application/json" } : {}, body: body && JSON.stringify(body) };
    const response = await fetch(path, options);
    const text = await response.text();
    let json = null;
    try { json = JSON.parse(text); } catch { /* plain text */ }
    if (!response.ok) throw new Error(json?.error?.message ?? (text || `status ${response.status}`));
    return json;
  };
  const show = (title, text) => ask(title, [element("pre", { tabindex: 0 }, text)]);
  const confirmChange = async (title, body, okText, run) => {
    if (!await ask(title, body, okText)) return;
    try {
      const report = await run();
      await show(title, report);
    } catch (error) {
      await show(title + ": failed", error.message);
    }
  };
  const stateLine = (view, name) => {
    const pools = Array.isArray(view) ? view : [view];
    const lines = pools.flatMap((pool) => pool.replicas.filter((r) => r.name === name).map((r) => `${pool.pool}: ${r.name} is ${r.state}, weight ${r.weight}, ${r.in_flight} requests in flight`));
    return lines.join("\n") || "done";
  };

  // ---- strip ----
  const FIGURES = [
    ["uptime", (s) => duration(s.time - meta.started)],
    ["requests/s", (s) => rate(s.router.requests_per_second)],
    ["tokens/s in", (s) => rate(s.router.prompt_tokens_per_second)],
    ["tokens/s out", (s) => rate(s.router.generated_tokens_per_second)],
    ["in flight", (s) => count(s.router.in_flight)],
    ["TTFT p50", (s) => seconds(s.router.ttft_p50)],
    ["TTFT p95", (s) => seconds(s.router.ttft_p95)],
    ["errors/min", (s) => count(s.router.errors_per_minute)],
    ["cached prompts", (s) => percent(s.router.cached_share)],
  ];
  const figures = FIGURES.map(([name]) => {
    const value = element("dd", {}, "–");
    byId("figures").append(element("div", {}, element("dt", {}, name), value));
    return value;
  });
  const showStrip = (second) => {
    FIGURES.forEach(([, text], index) => setText(figures[index], text(second)));
    figures[7].className = second.router.errors_per_minute > 0 ? "bad" : "";
  };
  byId("reload").addEventListener("click", () => confirmChange("Reload the configuration", [
    element("p", {}, "The file is checked whole first. If it has an error, nothing changes."),
  ], "Reload", async () => {
    const report = await change("POST", "/reload");
    return [report.changed || "nothing has changed", ...(report.notes ?? [])].join("\n");
  }));

  // ---- pools ----
  const MARKS = { ok: "✓ ok", degraded: "! degraded", down: "✕ down" };
  class PoolView {
    constructor(index) {
      this.index = index;
      this.sort = { column: -1, descending: false };
      this.mark = element("span", { class: "mark" });
      this.reason = element("span", { class: "note" });
      this.facts = {};
      const facts = element("dl");
      for (const name of ["policy", "imbalance", "waiting", "shadow differs"]) {
        this.facts[name] = element("dd", {}, "–");
        facts.append(element("div", {}, element("dt", {}, name), this.facts[name]));
      }
      this.onlyTrouble = element("input", { type: "checkbox", onchange: () => this.update(last) });
      this.title = element("h2");
      const head = element("div", { class: "head" }, this.title, this.mark, this.reason, facts, element("div", { class: "end" },
        element("label", {}, this.onlyTrouble, " only trouble"),
        element("button", { onclick: () => this.switchPolicy() }, "Switch policy")));
      this.heads = COLUMNS.map(([name], column) => element("th", { scope: "col", "aria-sort": "none", class: column > 1 && column !== 6 ? "n" : "" },
        element("button", { onclick: () => this.sortBy(column) }, name)));
      this.body = element("tbody");
      const table = element("table", {}, element("thead", {}, element("tr", {}, ...this.heads, element("th", { scope: "col" }, "actions"))), this.body);
      this.region = element("div", { class: "scroll", tabindex: 0, role: "region" }, table);
      this.none = element("p", { class: "note", hidden: true }, "Nothing in trouble.");
      this.root = element("article", { class: "pool" }, head, this.region, this.none);
      this.rows = [];
    }
    get pool() { return meta.pools[this.index]; }
    applyMeta() {
      setText(this.title, this.pool.name);
      setText(this.facts.policy, this.pool.policy);
      this.region.setAttribute("aria-label", `Replicas of ${this.pool.name}`);
      this.rows = this.pool.replicas.map((replica) => new ReplicaRow(this, replica));
      this.body.replaceChildren(...this.rows.map((row) => row.root));
    }
    sortBy(column) {
      this.sort = { column, descending: this.sort.column === column ? !this.sort.descending : column > 1 };
      this.heads.forEach((head, index) => head.setAttribute("aria-sort", index !== column ? "none" : this.sort.descending ? "descending" : "ascending"));
      this.update(last);
    }
    update(second) {
      const figures = second?.pools[this.index];
      if (!figures) return;
      this.mark.className = "mark " + figures.state;
      setText(this.mark, MARKS[figures.state] ?? figures.state);
      setText(this.reason, figures.reason ?? "");
      setText(this.facts.imbalance, figures.imbalance == null ? "–" : figures.imbalance.toFixed(2));
      setText(this.facts.waiting, count(figures.waiting));
      setText(this.facts["shadow differs"], figures.shadow ? percent(figures.shadow.other_share) : "no shadow");
      let shown = 0;
      figures.replicas.forEach((values, index) => {
        const row = this.rows[index];
        if (!row) return;
        row.figures = { name: row.replica.name, ...toObject(meta.replica_fields, values) };
        const hide = this.onlyTrouble.checked && GOOD.has(row.figures.state) && !row.figures.failures;
        if (row.root.hidden !== hide) row.root.hidden = hide;
        if (!hide) { shown += 1; row.update(second.time); }
      });
      this.none.hidden = shown > 0;
      if (this.sort.column >= 0) this.reorder();
    }
    reorder() {
      const read = COLUMNS[this.sort.column][1];
      const sign = this.sort.descending ? -1 : 1;
      const compare = (a, b) => {
        const [x, y] = [read(a.figures ?? {}), read(b.figures ?? {})];
        if (x == null || y == null) return (x == null) - (y == null);
        return sign * (typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y);
      };
      const sorted = [...this.rows].sort(compare);
      let place = this.body.firstElementChild;
      for (const row of sorted) {
        if (row.root === place) place = place.nextElementSibling;
        else this.body.insertBefore(row.root, place);
      }
    }
    switchPolicy() {
      const select = element("select", { id: "policy-select" }, ...meta.policies.map((policy) => element("option", { value: policy, selected: policy === this.pool.policy }, policy)));
      confirmChange(`Switch the policy of ${this.pool.name}`, [
        element("label", { for: "policy-select" }, "Policy "), select,
        element("p", { class: "note" }, "It holds until the next reload. Requests under way stay where they are."),
      ], "Switch", async () => `${this.pool.name} chooses by ${(await change("PUT", `/pools/${encodeURIComponent(this.pool.name)}/policy`, { policy: select.value })).policy}`);
    }
  }
  class ReplicaRow {
    constructor(view, replica) {
      this.view = view;
      this.replica = replica;
      this.figures = null;
      this.state = element("td", { class: "state" });
      this.stateText = element("span");
      this.stateNote = element("small");
      this.state.append(this.stateText, " ", this.stateNote);
      this.bar = element("i");
      this.barText = element("b");
      this.cells = COLUMNS.slice(2).map((_, index) => element("td", { class: index === 4 ? "" : "n" }));
      this.cells[4].append(element("span", { class: "bar" }, this.bar, this.barText));
      const button = (text, run) => element("button", { onclick: run, "aria-label": `${text} ${replica.name}` }, text);
      this.drain = button("drain", () => this.toggleDrain());
      this.down = button("down", () => this.toggleDown());
      this.root = element("tr", {}, element("th", { scope: "row", title: replica.url }, replica.name), this.state, ...this.cells,
        element("td", { class: "act" }, this.drain, this.down, button("weight", () => this.setWeight())));
    }
    update(time) {
      const f = this.figures;
      const kind = GOOD.has(f.state) ? "good" : BAD.has(f.state) ? "bad" : "warn";
      if (this.state.className !== "state " + kind) this.state.className = "state " + kind;
      setText(this.stateText, f.state.replace("_", " "));
      const until = f.ejected_until && f.ejected_until > time ? `, ${f.ejected_until - time} s left` : "";
      const since = time - f.since > 1 ? ` since ${duration(time - f.since)}` : "";
      setText(this.stateNote, [f.reason, since.trim()].filter(Boolean).join(", ") + until);
      const weight = f.weight === this.replica.weight ? String(f.weight) : `${f.weight.toFixed(2)} of ${this.replica.weight}`;
      const texts = [weight, count(f.in_flight), count(f.prefill_tokens), count(f.decoding), null, rate(f.prompt_tokens_per_second),
        rate(f.generated_tokens_per_second), seconds(f.ttft_p50), seconds(f.ttft_p95), percent(f.believed_hits), percent(f.reported_hits),
        f.external_requests == null ? "–" : f.external_requests ? `${count(f.external_requests)} (${count(f.external_tokens)} tok)` : "0",
        count(f.failures), f.prefill_slowdown === 1 && f.decode_slowdown === 1 ? "1" : `${f.prefill_slowdown}× / ${f.decode_slowdown}×`];
      texts.forEach((text, index) => { if (text != null) setText(this.cells[index], text); });
      const share = f.kv_tokens ? Math.min(1, f.resident_tokens / f.kv_tokens) : 0;
      const transform = `scaleX(${share.toFixed(3)})`;
      if (this.bar.style.transform !== transform) this.bar.style.transform = transform;
      setText(this.barText, f.kv_tokens ? `${count(f.resident_tokens)} of ${count(f.kv_tokens)}` : count(f.resident_tokens));
      this.name(this.drain, f.state === "drained" ? "undrain" : "drain");
      this.name(this.down, f.state === "down" ? "up" : "down");
    }
    name(button, text) {
      if (button.textContent === text) return;
      button.textContent = text;
      button.setAttribute("aria-label", `${text} ${this.replica.name}`);
    }
    get path() { return `/pools/${encodeURIComponent(this.view.pool.name)}/replicas/${encodeURIComponent(this.replica.name)}`; }
    toggleDrain() {
      const { name } = this.replica;
      const drained = this.figures?.state === "drained";
      confirmChange(`${drained ? "Undrain" : "Drain"} ${name}`, [
        element("p", {}, drained ? "It gets requests again." : "It gets no new requests, in any pool; those under way end."),
      ], drained ? "Undrain" : "Drain", async () => stateLine(await change(drained ? "DELETE" : "POST", `/replicas/${encodeURIComponent(name)}/drain`), name));
    }
    toggleDown() {
      const { name } = this.replica;
      const down = this.figures?.state === "down";
      confirmChange(`Take ${name} ${down ? "back into service" : "out of service"}`, [
        element("p", {}, down ? "It gets requests again in this pool." : "It is marked down in this pool until the next reload."),
      ], down ? "Up" : "Down", async () => stateLine(await change("PUT", this.path, { down: !down }), name));
    }
    setWeight() {
      const { name } = this.replica;
      const input = element("input", { id: "weight-input", type: "number", min: 1, max: 65535, value: this.replica.weight, required: true });
      confirmChange(`Weight of ${name}`, [element("label", { for: "weight-input" }, "Weight "), input], "Set",
        async () => stateLine(await change("PUT", this.path, { weight: Number(input.value) }), name));
    }
  }
  const showPools = () => {
    const root = byId("pools");
    poolViews.length = 0;
    meta.pools.forEach((_, index) => poolViews.push(new PoolView(index)));
    root.replaceChildren(...poolViews.map((view) => view.root));
    poolViews.forEach((view) => view.applyMeta());
    if (!meta.pools.length) root.append(element("p", { class: "note" }, "There is no pool: add replicas to the configuration."));
  };

  // ---- charts ----
  const cursor = { sync: { key: "live" }, drag: { x: false, y: false }, points: { size: 5 } };
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  class Chart {
    // `stacked`: the values are added up from the last series to the first, and drawn as areas.
    constructor(id, { stacked = false, text = rate }) {
      this.root = byId(id);
      this.stacked = stacked;
      this.text = text;
      this.names = [];
      this.values = [];
      this.times = [];
      this.plot = null;
      new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.root);
      charts.push(this);
    }
    size() { return { width: Math.max(200, this.root.clientWidth), height: 180 }; }
    set(times, names, values, colors) {
      const same = this.plot && names.length === this.names.length && names.every((name, index) => name === this.names[index]);
      Object.assign(this, { times, names, values, colors });
      if (same) this.draw(); else this.build();
    }
    build() {
      this.plot?.destroy();
      const axis = { stroke: style("--soft"), grid: { stroke: style("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
      const series = this.names.map((name, index) => ({
        label: name,
        stroke: this.colors[index],
        width: 1.5,
        fill: this.stacked ? this.colors[index] + "66" : undefined,
        points: { show: false },
        spanGaps: false,
        value: (_, __, ___, at) => at == null ? "–" : this.text(this.values[index][at]),
      }));
      this.plot = new uPlot({
        ...this.size(), cursor, series: [{ value: (_, t) => t == null ? "–" : clock(t) }, ...series],
        axes: [{ ...axis, size: 26, values: (_, ticks) => ticks.map(clock) }, { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => this.text(tick)) }],
        scales: { y: { range: (_, low, high) => [0, Math.max(high ?? 0, 0.001) * 1.05] } },
        legend: { show: this.names.length <= 12 },
      }, this.data(), this.root);
    }
    data() {
      if (!this.stacked) return [this.times, ...this.values];
      let below = null;
      const stacked = [];
      for (let index = this.values.length - 1; index >= 0; index -= 1) {
        const base = below;
        below = this.values[index].map((value, at) => value == null && base?.[at] == null ? null : (value ?? 0) + (base?.[at] ?? 0));
        stacked[index] = below;
      }
      return [this.times, ...stacked];
    }
    draw() { if (!document.hidden) this.plot.setData(this.data()); }
    restyle() { if (this.plot) this.build(); }
  }
  const tokensChart = new Chart("chart-tokens", { stacked: true });
  const residentChart = new Chart("chart-resident", { text: count });
  const ttftChart = new Chart("chart-ttft", { text: seconds });
  const outcomesChart = new Chart("chart-outcomes", {});
  // Replicas beyond this many are one series, so that a chart stays readable and cheap.
  const MAX_SERIES = 10;
  const series = (replicas, field) => {
    if (replicas.length <= MAX_SERIES) return replicas.map((replica) => [replica.name, replica[field]]);
    const sums = replicas.map((replica) => replica[field].reduce((sum, value) => sum + (value ?? 0), 0));
    const order = replicas.map((_, index) => index).sort((a, b) => sums[b] - sums[a]);
    const shown = order.slice(0, MAX_SERIES - 1).map((index) => [replicas[index].name, replicas[index][field]]);
    const rest = order.slice(MAX_SERIES - 1);
    const others = replicas[0][field].map((_, at) => rest.reduce((sum, index) => sum + (replicas[index][field][at] ?? 0), 0));
    return [...shown, [`${rest.length} others`, others]];
  };
  const drawCharts = () => {
    if (!history || document.hidden) return;
    const times = Array.from({ length: history.seconds }, (_, index) => history.from + index);
    const colors = (names) => names.map((_, index) => PALETTE[index % PALETTE.length]);
    for (const [chart, field] of [[tokensChart, "tokens_per_second"], [residentChart, "resident_tokens"]]) {
      const list = series(history.replicas, field);
      chart.set(times, list.map(([name]) => name), list.map(([, values]) => values), colors(list));
    }
    ttftChart.set(times, ["p50", "p95", "p99"], [history.ttft_p50, history.ttft_p95, history.ttft_p99], ["#2b8a3e", "#d9822b", "#c92a2a"]);
    const outcomes = Object.keys(history.outcomes);
    outcomesChart.set(times, outcomes, outcomes.map((name) => history.outcomes[name]), outcomes.map((name) => OUTCOMES[name] ?? "#868e96"));
  };
  const push = (values, value) => { values.push(value); if (values.length > SECONDS) values.shift(); };
  const addToHistory = (second) => {
    if (!history) return;
    const next = history.from + history.seconds;
    if (second.time < next) return;
    const { router } = second;
    const replicas = new Map();
    meta.pools.forEach((pool, index) => pool.replicas.forEach((replica, slot) => {
      const row = second.pools[index]?.replicas[slot];
      if (row) replicas.set(replica.name, toObject(meta.replica_fields, row));
    }));
    for (const name of replicas.keys()) {
      if (!history.replicas.some((known) => known.name === name)) {
        history.replicas.push({ name, tokens_per_second: Array(history.seconds).fill(null), resident_tokens: Array(history.seconds).fill(null) });
      }
    }
    for (let time = Math.max(next, second.time - SECONDS); time <= second.time; time += 1) {
      const now = time === second.time;
      for (const name of ["ttft_p50", "ttft_p95", "ttft_p99"]) push(history[name], now ? router[name] : null);
      for (const [name, values] of Object.entries(history.outcomes)) push(values, now ? router.outcomes[name] : null);
      for (const replica of history.replicas) {
        const figures = now ? replicas.get(replica.name) : null;
        push(replica.tokens_per_second, figures?.generated_tokens_per_second ?? null);
        push(replica.resident_tokens, figures?.resident_tokens ?? null);
      }
      history.seconds = history.ttft_p50.length;
      history.from = time - history.seconds + 1;
    }
  };

  // ---- tap ----
  const WHY = {
    affinity: "its prompt is cached there", passed_over: "another has more cached, but the wait there is longer", load: "the least load",
    sticky: "the session is pinned", retried: "another replica failed first", only: "the only candidate", first_free: "all are busy; free first",
    policy: "by the policy", none: "no replica could be chosen",
  };
  const tapBody = byId("tap-table").tBodies[0];
  const explain = async (id) => {
    const response = await fetch(`/explain/${encodeURIComponent(id)}`, { headers: { accept: "text/plain" } });
    await show("Decision", await response.text());
  };
  const tapRow = (r) => {
    const cells = [clock(r.time), r.pool, r.model ?? "–", r.key ?? "–", r.replica ?? "–"].map((text) => element("td", {}, text));
    const numbers = [count(r.prompt_tokens), count(r.cached_tokens), count(r.completion_tokens), seconds(r.ttft), r.duration == null ? "–" : r.duration.toFixed(1)]
      .map((text) => element("td", { class: "n" }, text));
    const why = element("td", { title: WHY[r.why] ?? "" }, r.why.replace("_", " ") + (r.attempts > 1 ? ` (${r.attempts} attempts)` : ""));
    const bad = r.outcome && !["completed", "client_gone", "refused"].includes(r.outcome);
    const outcome = element("td", { class: "state " + (bad ? "bad" : r.outcome === "completed" ? "good" : "") }, (r.outcome ?? "running").replace("_", " "));
    return element("tr", {}, ...cells, why, ...numbers, outcome,
      element("td", {}, element("button", { onclick: () => explain(r.id), "aria-label": `Explain request ${r.id}` }, "explain")));
  };
  const addRequests = (rows) => {
    for (const row of rows) {
      const request = toObject(meta.request_fields, row);
      requests.set(request.id, request);
    }
    const excess = requests.size - 50;
    if (excess > 0) [...requests.values()].sort((a, b) => a.time - b.time).slice(0, excess).forEach((r) => requests.delete(r.id));
  };
  const showTap = () => {
    if (paused || !meta) return;
    const words = byId("tap-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (r) => {
      const text = [r.model, r.replica, r.key, r.outcome ?? "running", r.why, r.pool, r.id].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    };
    const shown = [...requests.values()].filter(matches).sort((a, b) => b.time - a.time);
    if (tapBody.contains(document.activeElement)) return;
    tapBody.replaceChildren(...shown.map(tapRow));
    const empty = !meta.explain ? "Decisions are not kept: set explain = 1000 in the configuration." : words.length && requests.size ? "No request matches the filter." : "No request yet. Send one with a block from Connect below.";
    setText(byId("tap-note"), shown.length ? "" : empty);
  };
  byId("tap-filter").addEventListener("input", showTap);
  byId("pause").addEventListener("click", () => {
    paused = !paused;
    byId("pause").setAttribute("aria-pressed", String(paused));
    setText(byId("pause"), paused ? "Resume" : "Pause");
    showTap();
  });

  // ---- what if ----
  const showShadow = (second) => {
    const lines = meta.pools.flatMap((pool, index) => {
      const shadow = second.pools[index]?.shadow;
      if (!pool.shadow || !shadow) return [];
      if (shadow.other_share == null) return [`${pool.name}: ${pool.shadow} decides beside ${pool.policy}; no request in the last minute.`];
      return [`${pool.name}: in the last minute ${pool.shadow} would have chosen another replica for ${percent(shadow.other_share)} of the requests, ` +
        `and found ${percent(shadow.shadow_cached_share)} of the prompt tokens cached instead of ${percent(shadow.cached_share)}.`];
    });
    const hint = "No pool has a shadow policy. With shadow = \"least_conn\" in a pool, this router decides a second time for each request, without obeying, and shows here what would differ.";
    const texts = lines.length ? lines : [hint];
    const body = byId("shadow-body");
    if (body.childElementCount !== texts.length) body.replaceChildren(...texts.map(() => element("p", { class: "note" })));
    texts.forEach((text, index) => setText(body.children[index], text));
  };

  // ---- connect ----
  const showConnect = () => {
    const port = (meta.listen.find((address) => !address.startsWith("unix:")) ?? "8080").replace(/ .*/, "").split(":").pop();
    const tls = meta.listen.some((address) => address.endsWith(" ssl")) && !meta.listen.some((address) => !address.endsWith(" ssl"));
    const base = `${tls ? "https" : "http"}://${location.hostname}:${port}`;
    const model = meta.pools.flatMap((pool) => pool.models)[0] ?? "MODEL";
    const key = meta.has_keys ? "YOUR_KEY" : "none";
    setText(byId("connect-note"), meta.has_keys ? "This router needs an API key: put yours in place of YOUR_KEY." : "This router needs no API key; SDKs want some text.");
    const header = meta.has_keys ? ` -H 'authorization: Bearer ${key}'` : "";
    const blocks = [
      ["curl", `curl -N ${base}/v1/chat/completions${header} \\\n  -H 'content-type: application/json' \\\n  -d '{"model":"${model}","stream":true,"messages":[{"role":"user","content":"hi"}]}'`],
      ["OpenAI SDK (Python)", `from openai import OpenAI\nclient = OpenAI(base_url="${base}/v1", api_key="${key}")\nanswer = client.chat.completions.create(\n    model="${model}", messages=[{"role": "user", "content": "hi"}])\nprint(answer.choices[0].message.content)`],
      ["Claude Code", `tokenweir launch claude --url ${base} --model ${model}`],
      ["Codex", `tokenweir launch codex --url ${base} --model ${model}`],
      ["OpenCode", `tokenweir launch opencode --url ${base} --model ${model}`],
    ];
    byId("snippets").replaceChildren(...blocks.map(([title, text]) => {
      const copy = element("button", { "aria-label": `Copy ${title}`, onclick: async () => {
        try { await navigator.clipboard.writeText(text); setText(copy, "copied"); } catch { setText(copy, "select it"); }
        setTimeout(() => setText(copy, "copy"), 1500);
      } }, "copy");
      return element("div", { class: "snippet" }, element("div", { class: "head" }, element("h3", {}, title), copy), element("pre", { tabindex: 0, "aria-label": title }, text));
    }));
  };

  // ---- feed ----
  const link = (state, text) => { byId("link").dataset.state = state; setText(byId("link"), text); };
  let lostAt = 0;
  const source = new EventSource("/live");
  source.addEventListener("meta", (event) => {
    meta = JSON.parse(event.data);
    setText(byId("version"), meta.version);
    byId("reload").hidden = !meta.reloadable;
    byId("logout").hidden = !meta.needs_login;
    showPools();
    showConnect();
  });
  source.addEventListener("history", (event) => {
    history = JSON.parse(event.data);
    requests.clear();
    addRequests(history.requests);
    drawCharts();
    showTap();
  });
  source.addEventListener("second", (event) => {
    last = JSON.parse(event.data);
    lostAt = 0;
    link("live", "live");
    addToHistory(last);
    addRequests(last.requests);
    if (document.hidden) return;
    showStrip(last);
    poolViews.forEach((view) => view.update(last));
    showShadow(last);
    showTap();
    drawCharts();
  });
  source.addEventListener("error", () => {
    lostAt ||= Date.now();
    link("lost", "connection lost: the router is down or restarts; trying again");
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 3000);
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { drawCharts(); showTap(); } });
  window.tokenweir = { get meta() { return meta; }, get last() { return last; }, get history() { return history; } };
})();
