// Shared by all parts of the page: text of figures, nodes, theme. All parts are one script in the order of `assets.rs`.

const byId = (id) => document.getElementById(id);
const NONE = "–";

// ---- text of figures ----
const count = (n) => {
  if (n == null) return NONE;
  if (n < 10000) return String(Math.round(n));
  if (n < 1e6) return `${(n / 1e3).toFixed(n < 1e5 ? 1 : 0)}k`;
  return `${(n / 1e6).toFixed(n < 1e7 ? 2 : 1)}M`;
};
const rate = (n) => n == null ? NONE : n > 0 && n < 10 ? n.toFixed(1) : count(n);
const seconds = (s) => {
  if (s == null) return NONE;
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  return `${s.toFixed(s < 10 ? 2 : 1)} s`;
};
const percent = (x) => x == null ? NONE : `${Math.round(x * 100)} %`;
const times = (x) => x == null ? NONE : `${x.toFixed(x < 10 ? 2 : 0)}×`;
const duration = (s) => {
  s = Math.max(0, Math.round(s));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
};
const clock = (t) => new Date(t * 1000).toTimeString().slice(0, 8);
const words = (name) => String(name).replaceAll("_", " ");

// ---- nodes ----
// Writes only what has changed: a text that stays costs no layout.
const setText = (node, text) => {
  const first = node.firstChild;
  if (first === null) { if (text !== "") node.append(text); }
  else if (first.data !== text) first.data = text;
};
const setClass = (node, name) => { if (node.className !== name) node.className = name; };
const setHidden = (node, hidden) => { if (node.hidden !== hidden) node.hidden = hidden; };
// A figure in a table; nothing and zero are quiet.
const setFigure = (node, text) => {
  setText(node, text);
  node.classList.toggle("quiet", text === NONE || text === "0" || text === "0 %");
};
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
// Puts rows into an order, without moving `still`, which would lose the focus.
const placeRows = (body, rows, still) => {
  let place = body.firstElementChild;
  for (const { root } of rows) {
    if (root === place) { place = place.nextElementSibling; continue; }
    if (root === still?.root) { while (place !== root) { const next = place.nextElementSibling; body.append(place); place = next; } place = root.nextElementSibling; continue; }
    body.insertBefore(root, place);
  }
};
const toObject = (fields, row) => {
  const object = {};
  for (let index = 0; index < fields.length; index += 1) object[fields[index]] = row[index];
  return object;
};
const fetchJson = async (method, path, body) => {
  const headers = body ? { "content-type": "application/json" } : {};
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const text = await response.text();
  let json = null;
  try { json = JSON.parse(text); } catch { /* plain text */ }
  if (!response.ok) throw Object.assign(new Error(json?.error?.message ?? (text || `status ${response.status}`)), { status: response.status });
  return json;
};

// Runs one step a frame, so that no frame waits for all; a later call drops what is left of an earlier one.
const spread = () => {
  let run = 0;
  return (steps) => {
    const mine = (run += 1);
    let index = 0;
    const step = () => {
      if (mine !== run) return;
      steps[index]();
      index += 1;
      if (index < steps.length) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  };
};

// ---- what the parts share ----
let meta = null;
let last = null;
let history15 = null;
const charts = [];

// ---- theme ----
const stored = (key, value) => {
  try { return value === undefined ? localStorage.getItem(key) : localStorage.setItem(key, value); } catch { return null; }
};
const isDark = () => document.documentElement.dataset.theme === "dark";
const applyTheme = (dark) => {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  setText(byId("theme"), dark ? "☀ Light" : "☾ Dark");
  charts.forEach((chart) => chart.restyle());
};
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
byId("theme").addEventListener("click", () => { applyTheme(!isDark()); stored("theme", isDark() ? "dark" : "light"); });
prefersDark.addEventListener("change", (event) => { if (!stored("theme")) applyTheme(event.matches); });
applyTheme((stored("theme") ?? (prefersDark.matches ? "dark" : "light")) === "dark");

// ---- dialog ----
const dialog = byId("dialog");
// Shows a question, or a text if there is no `okText`; returns whether it was confirmed.
const ask = (title, body, okText) => new Promise((resolve) => {
  setText(byId("dialog-title"), title);
  byId("dialog-body").replaceChildren(...body);
  setText(byId("dialog-ok"), okText ?? "Close");
  byId("dialog-cancel").hidden = okText == null;
  dialog.returnValue = "";
  dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true });
  dialog.showModal();
});
const show = (title, ...body) => ask(title, body.map((part) => typeof part === "string" ? element("pre", { tabindex: 0 }, part) : part));
// Asks, runs the change, and shows the state after it.
const confirmChange = async (title, body, okText, run) => {
  if (!await ask(title, body, okText)) return;
  try {
    await show(`${title}: done`, await run());
  } catch (error) {
    await show(`${title}: failed`, error.message);
  }
};
