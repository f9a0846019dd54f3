// The charts of the last 15 minutes: one cursor, one moment, four views.

const SECONDS = 900;
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const OUTCOME_COLORS = { completed: "--s2", client_gone: "--s8", refused: "--s0", busy: "--s4", failed: "--s7", router_error: "--s3" };
const hasValue = (values) => values.some((value) => value > 0);

// The mean of each value and those of the nine seconds before it: single seconds are too rough to read.
const WINDOW = 10;
const smooth = (values) => {
  const means = new Array(values.length);
  let [sum, known] = [0, 0];
  for (let at = 0; at < values.length; at += 1) {
    if (values[at] != null) { sum += values[at]; known += 1; }
    const gone = at >= WINDOW ? values[at - WINDOW] : null;
    if (gone != null) { sum -= gone; known -= 1; }
    means[at] = values[at] == null ? null : sum / known;
  }
  return means;
};

class Chart {
  // `stacked`: the values are added up from the last series to the first, and drawn as areas.
  constructor(id, { stacked = false, text = rate }) {
    this.root = byId(id);
    this.stacked = stacked;
    this.text = text;
    this.series = [];
    this.times = [];
    this.plot = null;
    this.legend = element("ul", { class: "legend" });
    this.root.after(this.legend);
    this.items = [];
    new ResizeObserver(() => {
      const size = this.size();
      if (this.plot && (this.plot.width !== size.width || this.plot.height !== size.height)) this.plot.setSize(size);
    }).observe(this.root);
    charts.push(this);
  }
  size() { return { width: Math.max(200, this.root.clientWidth), height: this.root.clientHeight || 180 }; }
  // `series`: name, values, name of the color, and whether it is dashed.
  set(at, series) {
    const same = this.plot && series.length === this.series.length && series.every(({ name }, index) => name === this.series[index].name);
    this.times = at;
    this.series = series;
    if (same) this.plot.setData(this.data()); else this.build();
    this.showLegend();
  }
  build() {
    this.plot?.destroy();
    const [soft, line] = [style("--soft"), style("--line")];
    const axis = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const colors = this.series.map(({ color }) => style(color));
    const lines = this.series.map(({ dash }, index) => ({
      stroke: colors[index],
      width: this.stacked ? 1 : 1.5,
      dash,
      fill: this.stacked ? `${colors[index]}b0` : undefined,
      points: { show: false },
    }));
    this.plot = new uPlot({
      ...this.size(),
      padding: [8, 6, 0, 0],
      cursor: { sync: { key: "live" }, drag: { x: false, y: false }, points: { size: 6 }, focus: { prox: this.stacked ? -1 : 20 } },
      focus: { alpha: 0.25 },
      series: [{}, ...lines],
      bands: this.stacked ? this.series.slice(1).map((_, index) => ({ series: [index + 1, index + 2], fill: `${colors[index]}b0` })) : [],
      axes: [
        { ...axis, size: 24, space: (_, __, low, high) => high - low > 240 ? 48 : 76, values: (_, ticks) => ticks.map((tick) => clock(tick).slice(0, tick % 60 ? 8 : 5)) },
        { ...axis, size: 54, space: 34, values: (_, ticks) => ticks.map((tick) => this.text(tick)) },
      ],
      scales: { y: { range: (_, __, high) => [0, high > 0 ? high * 1.08 : 1] } },
      legend: { show: false },
      hooks: { setCursor: [() => this.showLegend()], setSeries: [(_, index) => this.focus(index)] },
    }, this.data(), this.root);
    this.items = this.series.map(({ name, dash }, index) => {
      const swatch = element("i", { class: dash ? "dashed" : "" });
      swatch.style.borderColor = colors[index];
      const value = element("b", {}, NONE);
      const item = element("li", { title: name }, swatch, element("span", {}, name), value);
      return { item, value };
    });
    this.legend.replaceChildren(...this.items.map(({ item }) => item));
  }
  // Shows the values under the cursor, or the last.
  showLegend() {
    if (!this.plot) return;
    const at = this.plot.cursor.idx ?? this.times.length - 1;
    this.series.forEach(({ values }, index) => setText(this.items[index].value, this.text(values[at])));
    showMoment(this.plot.cursor.idx == null ? null : this.times[at]);
  }
  focus(index) {
    this.items.forEach(({ item }, at) => item.classList.toggle("focus", index === at + 1));
  }
  data() {
    if (!this.stacked) return [this.times, ...this.series.map(({ values }) => values)];
    const stacked = [];
    let below = null;
    for (let index = this.series.length - 1; index >= 0; index -= 1) {
      const base = below;
      below = this.series[index].values.map((value, at) => value == null && base?.[at] == null ? null : (value ?? 0) + (base?.[at] ?? 0));
      stacked[index] = below;
    }
    return [this.times, ...stacked];
  }
  restyle() { if (this.plot) { this.build(); this.showLegend(); } }
}

const tokensChart = new Chart("chart-tokens", { stacked: true });
const residentChart = new Chart("chart-resident", { text: count });
const ttftChart = new Chart("chart-ttft", { text: seconds });
const outcomesChart = new Chart("chart-outcomes", { stacked: true });

const showMoment = (time) => {
  const now = history15 ? history15.from + history15.seconds - 1 : null;
  setText(byId("moment"), now == null ? "" : time == null ? `values of now, ${clock(now)}` : `values of ${clock(time)}, ${duration(now - time)} ago`);
};

// Replicas beyond this many are one series, so that a chart stays readable and cheap.
const MAX_SERIES = 8;
const ranking = { at: 0, names: [] };
// Orders the replicas by their tokens, and again only every 10 s, so that colors stay.
const rankReplicas = (replicas, now) => {
  if (now - ranking.at < 10 && ranking.count === replicas.length) return;
  const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);
  const sums = new Map(replicas.map((replica) => [replica.name, sum(replica.tokens_per_second)]));
  const order = [...sums.keys()].sort((a, b) => sums.get(b) - sums.get(a));
  Object.assign(ranking, { at: now, count: replicas.length, names: new Set(order.slice(0, MAX_SERIES - 1)) });
};
const replicaSeries = (replicas, field) => {
  const color = (index) => `--s${index % 10}`;
  if (replicas.length <= MAX_SERIES) return replicas.map((replica, index) => ({ name: replica.name, values: smooth(replica[field]), color: color(index) }));
  const shown = replicas.filter((replica) => ranking.names.has(replica.name));
  const rest = replicas.filter((replica) => !ranking.names.has(replica.name));
  const others = new Array(history15.seconds).fill(0);
  for (const replica of rest) {
    const values = replica[field];
    for (let at = 0; at < others.length; at += 1) others[at] += values[at] ?? 0;
  }
  const list = shown.map((replica, index) => ({ name: replica.name, values: smooth(replica[field]), color: color(index) }));
  return [...list, { name: `${rest.length} others`, values: smooth(others), color: "--s9" }];
};

const DRAWINGS = [
  (at) => tokensChart.set(at, replicaSeries(history15.replicas, "tokens_per_second")),
  (at) => residentChart.set(at, replicaSeries(history15.replicas, "resident_tokens")),
  (at) => ttftChart.set(at, [
    { name: "p50", values: history15.ttft_p50, color: "--s0" },
    { name: "p95", values: history15.ttft_p95, color: "--s1" },
    { name: "p99", values: history15.ttft_p99, color: "--s7", dash: [4, 3] },
  ]),
  (at) => {
    const outcomes = Object.entries(history15.outcomes).filter(([name, values]) => name === "completed" || hasValue(values));
    // What went wrong lies on top of what went well.
    const order = Object.keys(OUTCOME_COLORS);
    outcomes.sort(([a], [b]) => order.indexOf(b) - order.indexOf(a));
    outcomesChart.set(at, outcomes.map(([name, values]) => ({ name: words(name), values: smooth(values), color: OUTCOME_COLORS[name] ?? "--s8" })));
  },
];
// Charts out of view are not drawn.
let chartsInView = true;
const spreadCharts = spread();
const chartSteps = () => {
  if (!history15 || (!chartsInView && tokensChart.plot)) return [];
  const at = Array.from({ length: history15.seconds }, (_, index) => history15.from + index);
  rankReplicas(history15.replicas, history15.from + history15.seconds);
  return DRAWINGS.map((draw) => () => draw(at));
};
const drawCharts = () => { if (!document.hidden && history15) spreadCharts(chartSteps().concat(() => {})); };
new IntersectionObserver((entries) => {
  chartsInView = entries.at(-1).isIntersecting;
  drawCharts();
}, { rootMargin: "100px" }).observe(byId("charts"));

const push = (values, value) => { values.push(value); if (values.length > SECONDS) values.shift(); };
const addToHistory = (second) => {
  if (!history15) return;
  const next = history15.from + history15.seconds;
  if (second.time < next) return;
  const [rateAt, residentAt] = ["generated_tokens_per_second", "resident_tokens"].map((name) => meta.replica_fields.indexOf(name));
  const rows = new Map();
  meta.pools.forEach((pool, index) => pool.replicas.forEach((replica, slot) => {
    const row = second.pools[index]?.replicas[slot];
    if (row) rows.set(replica.name, row);
  }));
  const known = new Set(history15.replicas.map((replica) => replica.name));
  for (const name of rows.keys()) {
    const empty = () => new Array(history15.seconds).fill(null);
    if (!known.has(name)) history15.replicas.push({ name, tokens_per_second: empty(), resident_tokens: empty() });
  }
  for (let time = Math.max(next, second.time - SECONDS); time <= second.time; time += 1) {
    const now = time === second.time;
    for (const name of ["ttft_p50", "ttft_p95", "ttft_p99"]) push(history15[name], now ? second.router[name] : null);
    for (const [name, values] of Object.entries(history15.outcomes)) push(values, now ? second.router.outcomes[name] ?? 0 : null);
    for (const replica of history15.replicas) {
      const row = now ? rows.get(replica.name) : null;
      push(replica.tokens_per_second, row ? row[rateAt] : null);
      push(replica.resident_tokens, row ? row[residentAt] : null);
    }
    history15.seconds = history15.ttft_p50.length;
    history15.from = time - history15.seconds + 1;
  }
  // A replica that has left goes with its last value.
  history15.replicas = history15.replicas.filter((replica) => rows.has(replica.name) || replica.resident_tokens.some((value) => value != null));
};
