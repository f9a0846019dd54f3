// The connection to the router: reads the feed, and mends itself.

// Seconds come every second; a silence of this many ms is a lost connection.
const SILENCE = 6000;
let source = null;
let lostAt = 0;
let heardAt = Date.now();
let firstVersion = null;

const onMeta = (event) => {
  const before = meta;
  meta = JSON.parse(event.data);
  firstVersion ??= meta.version;
  // Another version has another page.
  if (firstVersion !== meta.version) { location.reload(); return; }
  if (before && before.started !== meta.started) showNotice(`The router was restarted at ${clock(meta.started)}. Its figures and charts begin there.`);
  setText(byId("version"), meta.version);
  byId("reload").hidden = !meta.reloadable;
  byId("logout").hidden = !meta.needs_login;
  showPools();
  showConnect();
  if (!before || before.record !== meta.record || before.started !== meta.started) loadReplay();
};
const onHistory = (event) => {
  history15 = JSON.parse(event.data);
  requests.clear();
  addRequests(history15.requests);
  drawCharts();
  showTap();
};
const spreadSecond = spread();
const showSecond = () => spreadSecond([
  () => showStrip(last),
  () => poolViews.forEach((view) => view.update(last)),
  () => { showShadow(last); showTap(); },
  ...chartSteps(),
]);
const onSecond = (event) => {
  last = JSON.parse(event.data);
  lostAt = 0;
  showLink("live", `live, ${clock(last.time)}`);
  addToHistory(last);
  addRequests(last.requests);
  if (!document.hidden) showSecond();
};
const connect = () => {
  source?.close();
  heardAt = Date.now();
  source = new EventSource("/live");
  for (const [name, run] of [["meta", onMeta], ["history", onHistory], ["second", onSecond]]) {
    source.addEventListener(name, (event) => { heardAt = Date.now(); run(event); });
  }
  source.addEventListener("error", () => { lostAt ||= Date.now(); });
};
// Asks why there is no feed: without a session the form for the token is shown.
const retry = async () => {
  try {
    const response = await fetch("/pools");
    if (response.status === 401 || response.status === 403) { location.reload(); return; }
  } catch { /* still down */ }
  connect();
};
setInterval(() => {
  const now = Date.now();
  if (!lostAt && now - heardAt > SILENCE) lostAt = heardAt;
  if (!lostAt) return;
  const since = last ? `The figures are those of ${clock(last.time)}.` : "";
  showLink("lost", `connection lost ${duration((now - lostAt) / 1000)} ago. ${since} Trying again.`);
  // The browser tries again by itself, but not after an answer that is no feed or on a silent connection.
  if (source.readyState === EventSource.CLOSED || now - heardAt > SILENCE) retry();
}, 1000);
document.addEventListener("visibilitychange", () => { if (!document.hidden && last) showSecond(); });
connect();

// For tests and for the curious.
window.tokenweir = { get meta() { return meta; }, get last() { return last; }, get history() { return history15; } };
