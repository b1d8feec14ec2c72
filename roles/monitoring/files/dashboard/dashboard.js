"use strict";
// The page for who is on call. It reads four paths of Prometheus, and changes nothing. queries.json has what it asks for.

// The widths of a point follow from how many fit; that of 90 days is a day, so that night and day make no pattern.
const SPANS = {"1 h": 3600, "6 h": 21600, "24 h": 86400, "7 d": 604800, "30 d": 2592000, "90 d": 7776000};
const POINTS = 240, WIDEST = 86400;
// How often it asks, how long it waits for an answer, and after how long the newest figures count as old: in seconds.
const REFRESH = 30, WAIT = 25, OLD = 150;
// Sums over 30 days cost Prometheus most.
const SELDOM = {budget: 300};
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3], [4, 2]];

const element = id => document.getElementById(id);
const make = (name, attributes = {}, ...inside) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
};
const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// --- What figures look like

// A space at which no line breaks.
const THIN = "\u00a0";
const short = value => value === 0 ? "0" : value >= 1000 ? value.toLocaleString("en", {maximumFractionDigits: 0})
  : String(Number(value.toPrecision(value < 1 ? 2 : 3)));
const count = (number, one, many = `${one}s`) => `${number}${THIN}${number === 1 ? one : many}`;

function duration(seconds) {
  if (seconds === 0) return `0${THIN}s`;
  if (seconds < 0.9995) return `${short(seconds * 1000)}${THIN}ms`;
  if (seconds < 99.5) return `${seconds < 9.95 ? short(seconds) : Math.round(seconds)}${THIN}s`;
  if (seconds < 5970) return `${Math.round(seconds / 60)}${THIN}min`;
  if (seconds < 171000) return `${Math.round(seconds / 3600)}${THIN}h`;
  return count(Math.round(seconds / 86400), "day");
}

function bytes(number) {
  const power = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(1, number)) / 3)));
  return `${short(number / 1000 ** power)}${THIN}${["B", "kB", "MB", "GB", "TB"][power]}`;
}

const inUnit = (value, unit) => value == null || Number.isNaN(value) ? "–" : unit === "s" ? duration(value) : `${short(value)}${THIN}${unit}`;
const clock = (time, options) => new Intl.DateTimeFormat("en-GB", options).format(new Date(time * 1000));
const hour = time => clock(time, {hour: "2-digit", minute: "2-digit"});
const day = time => clock(time, {day: "numeric", month: "short"});

// --- What Prometheus is asked

// The page may be opened by an address with a password in it, to which the browser asks for nothing more.
const HERE = new URL(".", location.origin + location.pathname);

class Silent extends Error {}

async function ask(path, parameters = {}) {
  let answer;
  try {
    answer = await fetch(`${HERE}api/v1/${path}?${new URLSearchParams(parameters)}`, {signal: AbortSignal.timeout(WAIT * 1000)});
  } catch {
    throw new Silent("Prometheus cannot be reached");
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok || said.status !== "success") throw new Silent(`Prometheus does not answer (${said.error ?? answer.status})`);
  return said.data;
}

const kept = new Map();

async function fact({id, query}) {
  const before = kept.get(id);
  if (before && Date.now() - before.at < SELDOM[id] * 1000) return before.rows;
  const rows = (await ask("query", {query})).result.map(({metric, value}) => ({...metric, value: Number(value[1])}));
  kept.set(id, {at: Date.now(), rows});
  return rows;
}

const named = (label, metric) => label.replace(/{{(\w+)}}/g, (_, name) => metric[name] ?? "");

// The series of a panel on one grid of times, with null where Prometheus has nothing: a gap must stay a gap.
async function past(panel, span, end, step) {
  const start = end - span, length = span / step + 1, width = `${Math.max(300, step)}s`;
  const found = await Promise.all(panel.series.map(async ({label, query}) => {
    const parameters = {query: query.replaceAll("$window", width), start, end, step};
    return (await ask("query_range", parameters)).result.map(({metric, values}) => {
      const column = new Array(length).fill(null);
      for (const [time, value] of values) if (Number.isFinite(Number(value))) column[Math.round((time - start) / step)] = Number(value);
      return {label: named(label, metric), column};
    }).sort((a, b) => a.label.localeCompare(b.label));
  }));
  return {times: Array.from({length}, (_, i) => start + i * step), series: found.flat()};
}

// --- Charts

const charts = new Map();

function frame(panel) {
  const at = make("span", {class: "at"}), legend = make("ul", {class: "legend"}), box = make("div", {class: "chart", tabindex: "0", role: "img"});
  const title = make("h2", {}, panel.title, at);
  element("after-panels").before(make("figure", {class: "card", id: panel.id}, title, legend, box));
  const chart = {panel, at, legend, box, plot: null, key: ""};
  charts.set(panel.id, chart);
  box.addEventListener("keydown", event => {
    const steps = {ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -1e6, End: 1e6}[event.key];
    if (!steps || !chart.plot) return;
    event.preventDefault();
    const {plot} = chart, last = plot.data[0].length - 1;
    const index = Math.min(last, Math.max(0, (plot.cursor.idx ?? last) + steps));
    plot.setCursor({left: plot.valToPos(plot.data[0][index], "x"), top: 10});
  });
  box.addEventListener("blur", () => chart.plot?.setCursor({left: -10, top: -10}));
}

function tell(chart, index) {
  const {plot, panel} = chart;
  const last = plot.data[0].length - 1, shown = index ?? last;
  chart.at.textContent = index == null ? (chart.step >= 900 ? `a point is ${duration(chart.step)}` : "") : clock(plot.data[0][index], {day: "numeric", month: "short", hour: "2-digit", minute: "2-digit"});
  [...chart.legend.querySelectorAll("b")].forEach((value, i) => {
    value.textContent = inUnit(plot.data[i + 1][shown] ?? (index == null ? plot.data[i + 1][shown - 1] : null), panel.unit);
  });
  const said = [...chart.legend.children].map(item => item.textContent.trim()).join(", ");
  chart.box.setAttribute("aria-label", `${panel.title}. ${index == null ? "Newest" : chart.at.textContent}: ${said}. Arrow keys move through time.`);
}

function swatch(i) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), line = document.createElementNS(svg.namespaceURI, "line");
  svg.setAttribute("aria-hidden", "true");
  for (const [key, value] of Object.entries({x1: 0, x2: 22, y1: 4, y2: 4, stroke: `var(--series-${i % 5})`, "stroke-dasharray": DASHES[i % 5].join(" ")})) line.setAttribute(key, value);
  svg.append(line);
  return svg;
}

// Ticks of seconds that are round as minutes, hours and days too.
const ROUND = [1e-4, 2e-4, 5e-4, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 432000, 864000];

function draw(chart, {times, series}) {
  chart.step = times[1] - times[0];
  const {panel, box} = chart, data = [times, ...series.map(one => one.column)];
  const key = JSON.stringify([series.map(one => one.label), dark.matches]);
  if (chart.plot && chart.key === key) {
    chart.plot.setData(data);
    return tell(chart, chart.plot.cursor.idx);
  }
  chart.plot?.destroy();
  chart.key = key;
  chart.legend.replaceChildren(...series.map(({label}, i) => make("li", {}, swatch(i), `${label} `, make("b"))));
  if (!series.length) {
    chart.plot = null;
    box.replaceChildren(make("p", {class: "nothing"}, "Prometheus has no figures of this."));
    box.setAttribute("aria-label", `${panel.title}. Prometheus has no figures of this.`);
    return;
  }
  box.replaceChildren();
  const axis = {stroke: colour("quiet"), font: "11px system-ui, sans-serif", grid: {stroke: colour("grid"), width: 1}, ticks: {show: false}};
  const ticks = (plot, splits, _, __, increment) => splits.map(time => increment >= 86400 || new Date(time * 1000).getHours() + new Date(time * 1000).getMinutes() === 0 ? day(time) : hour(time));
  chart.plot = new uPlot({
    width: box.clientWidth, height: 148, legend: {show: false}, padding: [8, 10, 0, 0],
    cursor: {sync: {key: "time", setSeries: false}, y: false, drag: {setScale: false, x: false, y: false}, points: {size: 6}},
    scales: {y: {range: (plot, low, high) => [0, high > 0 ? high * 1.12 : 1]}},
    axes: [
      {...axis, size: 22, gap: 6, space: 64, values: ticks},
      {...axis, size: 54, gap: 6, space: 30, ...(panel.unit === "s" && {incrs: ROUND}), values: (plot, splits) => splits.map(value => inUnit(value, panel.unit))},
    ],
    series: [{}, ...series.map(({label}, i) => ({
      label, stroke: colour(`series-${i % 5}`), width: 1.8, dash: DASHES[i % 5], points: {show: false},
      fill: i === 0 ? `${colour("series-0")}16` : undefined,
    }))],
    hooks: {setCursor: [plot => chart.plot && tell(chart, plot.cursor.left >= 0 ? plot.cursor.idx : null)]},
  }, data, box);
  tell(chart, null);
}

// --- The state

const CALM = new Set(["Watchdog"]);
// As many of one kind are shown: a node that is away can make dozens.
const EACH = 3;

// What one word and one sentence say of all: the worst comes first.
function judge({facts, alerts}) {
  const one = id => facts[id]?.[0]?.value;
  const firing = alerts.filter(alert => alert.state === "firing"), shown = firing.filter(alert => !CALM.has(alert.labels.alertname));
  const pages = shown.filter(alert => alert.labels.severity === "page"), age = one("age");
  const canary = one("canary"), watched = one("canary_enabled") === 1;
  if (age === undefined) return ["unknown", "Not known", "Prometheus has no figures: it has reached none of the nodes yet."];
  if (age > OLD) return ["unknown", "Not known", `The newest figures are ${duration(age)} old: Prometheus reaches no node. Below is what was true then.`];
  if (shown.length === firing.length) return ["unknown", "Not known", "Prometheus evaluates no alerts: the one that always fires does not. The figures below are new."];
  if (watched && canary > 240) return ["down", "Down", `For ${duration(canary)} no record has gone from POST to GET through the public address.`];
  if (pages.length) return ["trouble", "In trouble", `${pages[0].annotations.summary}.${pages.length > 1 ? ` And ${count(pages.length - 1, "more page")}.` : ""}`];
  const also = shown.length ? ` ${count(shown.length, "ticket waits", "tickets wait")} for the next working day.` : "";
  if (!watched) return ["up", "Up", `No alert says otherwise; the canary, which would try it from outside, is off.${also}`];
  if (canary === undefined) return ["unknown", "Not known", `No alert pages, but the canary has not succeeded yet.${also}`];
  return ["up", "Up", `Records are accepted and can be read: the last try from outside succeeded ${duration(canary)} ago.${also}`];
}

const ICONS = {up: "%2317713f", trouble: "%23b87700", down: "%23ab1f16", unknown: "%2356606e"};
const SHAPES = {up: "<circle cx='8' cy='8' r='7'/>", trouble: "<path d='M8 1l7 14H1z'/>", down: "<path d='M1 1h14v14H1z'/>", unknown: "<circle cx='8' cy='8' r='5' fill='none' stroke-width='3'/>"};

function showState([state, word, sentence]) {
  element("state").className = state;
  if (element("word").textContent !== word) element("word").textContent = word;
  if (element("sentence").textContent !== sentence) element("sentence").textContent = sentence;
  document.title = `${word} · timestamp-service`;
  document.querySelector("link[rel=icon]").href = `data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16' fill='${ICONS[state]}' stroke='${ICONS[state]}'>${SHAPES[state]}</svg>`;
}

function showFigures(facts) {
  const one = id => facts[id]?.[0]?.value, targets = facts.targets ?? [], answer = targets.filter(target => target.value === 1).length;
  const budget = one("budget");
  const figures = [
    ["POST to GET takes", one("canary_duration") === undefined ? "–" : duration(one("canary_duration"))],
    ["Error budget left", budget === undefined ? "–" : budget < 0 ? "none" : `${Math.floor(budget * 100)} % of 30 days`],
    ["Watched, and answers", `${answer < targets.length ? "▲ " : ""}${answer} of ${targets.length}`],
  ];
  element("figures").replaceChildren(...figures.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function showAlerts(alerts, now) {
  const order = {page: 0, ticket: 1};
  const firing = alerts.filter(alert => alert.state === "firing" && !CALM.has(alert.labels.alertname));
  firing.sort((a, b) => (order[a.labels.severity] ?? 2) - (order[b.labels.severity] ?? 2) || a.activeAt.localeCompare(b.activeAt));
  const alike = ({labels}) => firing.filter(other => other.labels.alertname === labels.alertname);
  const row = ({labels}, summary, since) => make(
    "li", {class: labels.severity},
    make("span", {class: "severity"}, labels.severity === "page" ? "▲ page" : "● ticket"),
    make("a", {href: `alerts.html#${labels.alertname.toLowerCase()}`}, labels.alertname),
    make("span", {class: "summary"}, summary),
    make("span", {class: "since"}, since),
  );
  element("firing").replaceChildren(...firing.flatMap(alert => {
    const before = alike(alert).indexOf(alert);
    if (before > EACH) return [];
    if (before === EACH) return [row(alert, `and ${count(alike(alert).length - EACH, "more of these", "more of these")}`, "")];
    return [row(alert, alert.annotations.summary ?? "", `for ${duration(Math.max(0, Math.round(now - Date.parse(alert.activeAt) / 1000)))}`)];
  }));
  const pending = [...new Set(alerts.filter(alert => alert.state === "pending").map(alert => alert.labels.alertname))];
  element("pending").textContent = pending.length ? `Will fire if it lasts: ${pending.join(", ")}.` : firing.length ? "" : "No alert fires.";
}

function showRules(groups, now) {
  const rules = groups.flatMap(group => group.rules), broken = rules.filter(rule => rule.health === "err").map(rule => rule.name);
  const latest = Math.max(...rules.map(rule => Date.parse(rule.lastEvaluation) / 1000));
  element("rules").textContent = !rules.length ? "Prometheus has no rules."
    : `${count(rules.length, "rule")}, evaluated ${duration(Math.max(0, Math.round(now - latest)))} ago${broken.length ? `; not evaluated: ${broken.join(", ")}` : ""}.`;
}

// --- Tables

function fill(id, heads, rows) {
  const cell = (name, [text, className = "", note = ""]) => make(name, className ? {class: className} : {}, ...[text].flat(), ...(note ? [make("small", {}, note)] : []));
  element(id).replaceChildren(
    make("thead", {}, make("tr", {}, ...heads.map(([text, className]) => make("th", {scope: "col", ...(className && {class: className})}, text)))),
    make("tbody", {}, ...rows.map(([first, ...others]) => {
      const head = cell("th", first);
      head.scope = "row";
      return make("tr", {}, head, ...others.map(one => cell("td", one)));
    })),
  );
}

const by = (rows, ...labels) => new Map((rows ?? []).map(row => [labels.map(label => row[label]).join("\n"), row]));

function showBrokers(facts) {
  const brokers = (facts.targets ?? []).filter(target => target.job === "kafka").sort((a, b) => a.instance.localeCompare(b.instance));
  const led = by(facts.led, "instance"), behind = by(facts.behind, "instance"), controller = by(facts.controller, "instance");
  const away = brokers.filter(broker => broker.value !== 1), sum = rows => (rows ?? []).reduce((all, row) => all + row.value, 0);
  const offline = facts.offline?.[0]?.value, minimum = facts.minimum?.[0]?.value ?? 0, late = sum(facts.behind);
  const said = element("brokers-said");
  if (!brokers.length) said.textContent = "Prometheus watches no broker.";
  else if (offline > 0) said.textContent = `✕ ${count(offline, "partition has", "partitions have")} no leader.`;
  else if (minimum > 0) said.textContent = `✕ ${count(minimum, "partition refuses", "partitions refuse")} records: too few replicas.`;
  else if (away.length) said.textContent = `▲ ${count(away.length, "broker does", "brokers do")} not answer.`;
  else if (late > 0) said.textContent = `▲ ${count(late, "partition has", "partitions have")} a replica behind.`;
  else said.textContent = `✓ ${brokers.length === 1 ? "The broker answers" : `All ${brokers.length} brokers answer`}, all replicas are in sync.`;
  said.className = `said ${offline > 0 || minimum > 0 ? "bad" : away.length || late > 0 ? "warn" : brokers.length ? "good" : ""}`;
  fill("brokers", [["broker"], ["state"], ["leads", "number"], ["behind", "number"]], brokers.map(({instance, value}) => [
    [instance],
    value === 1 ? [controller.get(instance)?.value === 1 ? "answers, controller" : "answers"] : ["▲ no answer", "warn"],
    [value === 1 ? short(led.get(instance)?.value ?? 0) : "–", "number"],
    [value === 1 ? short(behind.get(instance)?.value ?? 0) : "–", `number ${behind.get(instance)?.value > 0 ? "warn" : ""}`],
  ]));
}

function showDatabases(facts) {
  const unread = by(facts.unread, "projection"), projections = (facts.oldest ?? []).sort((a, b) => b.value - a.value);
  const broken = (facts.healthy ?? []).filter(one => one.value !== 1).map(one => one.projection), late = one => one.value > 300 ? "bad" : one.value > 60 ? "warn" : "";
  const worst = projections.map(late).find(Boolean), said = element("databases-said");
  if (!projections.length && !broken.length) said.textContent = "No command API has told how far the databases are.";
  else if (broken.length) said.textContent = `✕ Not whole, or not in time: ${broken.join(", ")}.`;
  else if (worst) said.textContent = `▲ ${count(projections.filter(late).length, "consumer is", "consumers are")} behind the log.`;
  else said.textContent = `✓ ${projections.length === 1 ? "It has" : "All have"} what was recorded.`;
  said.className = `said ${broken.length ? "bad" : worst ?? (projections.length ? "good" : "")}`;
  fill("databases", [["filled by"], ["behind", "number"], ["messages", "number"]], projections.map(one => [
    [one.projection],
    [`${late(one) ? "▲ " : ""}${duration(one.value)}`, `number ${late(one)}`],
    [short(unread.get(one.projection)?.value ?? 0), "number"],
  ]));
}

function showDisks(facts) {
  const sizes = by(facts.disk_size, "instance", "path"), days = by(facts.disk_days, "instance", "path");
  const disks = (facts.disk_free ?? []).map(({instance, path, value}) => {
    const size = sizes.get(`${instance}\n${path}`)?.value ?? NaN, left = days.get(`${instance}\n${path}`)?.value;
    return {instance, path, free: value, size, share: value / size, young: left === undefined, left: left > 0 && left < 3650 ? left : Infinity};
  }).sort((a, b) => a.left - b.left || a.share - b.share);
  const soon = disk => disk.left < 4 || disk.share < 0.05 ? "bad" : disk.left < 30 || disk.share < 0.1 ? "warn" : "";
  const first = disks[0], worst = disks.map(soon).find(Boolean);
  element("disks-said").textContent = !first ? "No node has told of its disks." : first.young
    ? "They are watched for less than a day." : first.left === Infinity
    ? "✓ As in the last week, none fills up in ten years."
    : `${worst ? "▲" : "✓"} As in the last week, the first is full in ${count(Math.round(first.left), "day")}.`;
  element("disks-said").className = `said ${worst || (first ? "good" : "")}`;
  fill("disks", [["volume"], ["used"], ["days left", "number"]], disks.map(disk => [
    [disk.path, "", disk.instance],
    [make("progress", {max: 1, value: 1 - disk.share, "aria-label": "used"}), "", `${bytes(disk.free)} free`],
    [`${soon(disk) ? "▲ " : ""}${disk.young ? "–" : disk.left === Infinity ? "10 years +" : short(Math.floor(disk.left))}`, `number ${soon(disk)}`],
  ]));
}

function showCertificates(facts, now) {
  const groups = new Map();
  for (const {instance, certificate, value} of facts.certificates ?? []) {
    const end = now + value * 86400, key = `${certificate}\n${day(end)}`;
    groups.set(key, {certificate, end, days: Math.min(value, groups.get(key)?.days ?? Infinity), nodes: [...groups.get(key)?.nodes ?? [], instance]});
  }
  const certificates = [...groups.values()].sort((a, b) => a.days - b.days), first = certificates[0];
  const soon = one => one.days < 7 ? "bad" : one.days < 21 ? "warn" : "";
  element("certificates-said").textContent = first ? `${soon(first) ? "▲" : "✓"} The first ends in ${count(Math.floor(first.days), "day")}.` : "No node has told of its certificates.";
  element("certificates-said").className = `said ${first ? soon(first) || "good" : ""}`;
  fill("certificates", [["certificate"], ["ends"], ["days", "number"]], certificates.map(one => [
    [one.certificate.split("/").pop(), "", one.nodes.length > 3 ? count(one.nodes.length, "node") : one.nodes.join(", ")],
    [clock(one.end, {day: "numeric", month: "short", year: "numeric"})],
    [`${soon(one) ? "▲ " : ""}${short(Math.floor(one.days))}`, `number ${soon(one)}`],
  ]));
}

function showNodes(facts) {
  const nodes = new Map();
  for (const {instance, value} of facts.targets ?? []) {
    const node = nodes.get(instance) ?? {all: 0, up: 0};
    nodes.set(instance, {all: node.all + 1, up: node.up + (value === 1)});
  }
  const versions = by(facts.releases, "instance"), kinds = ["release", "debian", "kernel", "postgresql", "kafka"];
  const common = Object.fromEntries(kinds.map(kind => {
    const values = (facts.releases ?? []).map(row => row[kind]).filter(Boolean), often = value => values.filter(other => other === value).length;
    return [kind, values.sort((a, b) => often(b) - often(a) || b.localeCompare(a, "en", {numeric: true}))[0]];
  }));
  let mixed = 0;
  const rows = [...nodes].sort(([a], [b]) => a.localeCompare(b)).map(([name, {all, up}]) => [
    [name],
    up === all ? [`${up} of ${all}`] : [`▲ ${up} of ${all}`, "warn"],
    ...kinds.map(kind => {
      const value = versions.get(name)?.[kind];
      if (!value) return ["–", "quiet"];
      const differs = value !== common[kind];
      mixed += differs;
      return differs ? [`≠ ${value}`, "warn"] : [value];
    }),
  ]);
  const silent = [...nodes].filter(([, node]) => node.up < node.all).map(([name]) => name);
  element("nodes-said").textContent = !nodes.size ? "Prometheus watches no node." : silent.length ? `▲ No answer, or not of all that runs there: ${silent.join(", ")}.`
    : mixed ? "✓ All answer. ≠ marks a version that most nodes do not have." : "✓ All answer, and versions are the same on all.";
  element("nodes-said").className = `said ${silent.length ? "warn" : nodes.size ? "good" : ""}`;
  fill("nodes", [["node"], ["answers"], ["release"], ["Debian"], ["kernel"], ["PostgreSQL"], ["Kafka"]], rows);
}

// --- The round

let queries, span = SPANS["1 h"], round = 0, drawn = {span: 0, at: 0}, newest = null;

async function showCharts(mine, now) {
  const asked = span, step = span / POINTS > 20000 ? WIDEST : span / POINTS, align = Math.min(step, 300), end = Math.floor(now / align) * align;
  // A point of 90 days is nine hours wide: it is not asked for each half minute.
  if (drawn.span === span && Date.now() - drawn.at < Math.min(step, 300) * 1000 && newest) return;
  await Promise.all(queries.panels.map(async panel => {
    const found = await past(panel, asked, end, step);
    if (mine === round) draw(charts.get(panel.id), found);
  }));
  if (mine === round) drawn = {span: asked, at: Date.now()};
}

async function show() {
  const mine = ++round;
  try {
    queries ??= await fetch(`${HERE}queries.json`).then(answer => answer.json());
    // Its clock counts, not that of this computer. If it does not answer this, the rest is not asked.
    const now = Number((await ask("query", {query: "time()"})).result[1]), facts = {};
    const [{alerts}, {groups}] = await Promise.all([
      ask("alerts"), ask("rules", {type: "alert"}),
      ...queries.facts.map(async one => { facts[one.id] = await fact(one); }),
    ]);
    if (mine !== round) return;
    document.body.classList.remove("empty");
    if (!charts.size) queries.panels.forEach(frame);
    showState(judge({facts, alerts}));
    showFigures(facts);
    showAlerts(alerts, now);
    showRules(groups, now);
    showBrokers(facts);
    showDatabases(facts);
    showDisks(facts);
    showCertificates(facts, now);
    showNodes(facts);
    document.body.classList.toggle("old", !(facts.age[0]?.value <= OLD));
    await showCharts(mine, now);
    if (mine !== round) return;
    newest = new Date();
    element("updated").textContent = `updated ${newest.toLocaleTimeString("en-GB")}`;
  } catch (error) {
    if (mine !== round) return;
    if (!(error instanceof Silent)) console.error(error);
    const since = newest ? `Below is what was true at ${newest.toLocaleTimeString("en-GB")}.` : "There is nothing to show.";
    showState(["unknown", "Not known", `${error instanceof Silent ? error.message : "This page has failed"}. ${since}`]);
    document.body.classList.add("old");
  }
}

function choose(seconds) {
  span = seconds;
  history.replaceState(null, "", `#${seconds}`);
  show();
}

for (const [label, seconds] of Object.entries(SPANS)) {
  const input = make("input", {type: "radio", name: "span", value: seconds});
  input.checked = location.hash === `#${seconds}` || (!location.hash && seconds === span);
  if (input.checked) span = seconds;
  input.addEventListener("change", () => choose(seconds));
  element("spans").append(make("label", {}, input, label));
}
new ResizeObserver(() => charts.forEach(({plot, box}) => plot && plot.width !== box.clientWidth && plot.setSize({width: box.clientWidth, height: 148}))).observe(element("grid"));
dark.addEventListener("change", () => { drawn.at = 0; show(); });
document.addEventListener("visibilitychange", () => document.hidden || show());
show();
setInterval(() => document.hidden || show(), REFRESH * 1000);
