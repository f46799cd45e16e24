// The first screen: one metric of every method, what the tests tell apart, and a small table.

function tiedWith(name, key) {
  const place = state.result.rows.findIndex((row) => row.name === name);
  const tied = new Set();
  for (const group of metricOf(key).groups) if (group.includes(place)) group.forEach((one) => tied.add(state.result.rows[one].name));
  tied.delete(name);
  return tied;
}

// A method's letters; none where they are so many that nobody reads them.
const lettersOf = (row, key = state.metric) => (metricOf(key).groups.length > 12 ? "" : own(row.letters, key) || "");

// Methods from the best mean on, then controls.
function ranked(key) {
  const sign = metricOf(key).falls ? 1 : -1;
  const order = state.result.rows.filter((row) => score(row, key) && score(row, key).mean !== null).sort(by((row) => sign * score(row, key).mean));
  return [...order.filter((row) => !row.control), ...order.filter((row) => row.control)];
}

const LETTER = 15, CELL = 9; // pixels

function scoreSpec(width) {
  const metric = metricOf(state.metric), rows = ranked(state.metric), factor = metric.factor;
  const tied = metric.tested ? tiedWith(state.marked, state.metric) : new Set();
  const role = (row) => row.control ? "control" : !metric.tested ? "method" : row.name === state.marked ? "marked" : tied.has(row.name) ? "tied" : "apart";
  const values = rows.map((row) => {
    const found = score(row, state.metric);
    return { name: row.name, role: role(row), mean: factor * found.mean, low: found.low === null ? null : factor * found.low,
      high: found.high === null ? null : factor * found.high, text: `${found.text} ${found.span} ${lettersOf(row)}`.trim() };
  });
  const names = rows.map((row) => row.name), height = Math.max(60, (rows.length > 16 ? 15 : 22) * rows.length);
  const roles = ["marked", "tied", "method", "apart", "control"];
  const fill = [colour("accent"), colour("accent"), colour("accent"), colour("surface"), colour("surface")];
  const stroke = [colour("accent"), colour("accent"), colour("accent"), colour("muted"), colour("muted")];
  const y = { field: "name", type: "nominal", sort: names, title: null, axis: { labelPadding: 6, domain: false, ticks: false, grid: false } };
  const tone = { field: "role", type: "nominal", scale: { domain: roles, range: stroke }, legend: null };
  const x = { type: "quantitative", title: axisTitle(metric), scale: { zero: false }, axis: { orient: rows.length > 16 ? "top" : "bottom" } };
  const beside = besidePanel(metric, names, height, width);
  const main = {
    width: Math.max(140, width - textWidth(names, 170) - (beside ? beside.width + 10 : 0) - 42), height, data: { values },
    layer: [
      { mark: { type: "rule", strokeWidth: 2 }, encoding: { x: { ...x, field: "low" }, x2: { field: "high" }, y, color: tone } },
      { mark: { type: "point", filled: true, size: 70, strokeWidth: 2, opacity: 1, cursor: "pointer" },
        encoding: { x: { ...x, field: "mean" }, y, stroke: tone, fill: { ...tone, scale: { domain: roles, range: fill } },
          shape: { field: "role", type: "nominal", scale: { domain: roles, range: ["circle", "circle", "circle", "circle", "diamond"] }, legend: null },
          size: { condition: { test: "datum.role === 'marked'", value: 130 }, value: 70 },
          tooltip: [{ field: "name", title: "method" }, { field: "text", title: metric.label }] } },
    ],
  };
  return beside ? { hconcat: [main, beside], spacing: 10, resolve: { scale: { y: "independent", x: "independent" } } } : main;
}

const axisTitle = (metric) => [metric.label, metric.unit].filter(Boolean).join(" ");

// Beside the scores: the letters while they are few, else a square for every two methods that can't be told apart.
function besidePanel(metric, names, height, width) {
  const { groups } = metric, methodNames = names.filter((name) => methods().some((row) => row.name === name));
  state.panel = "";
  if (!metric.tested || methodNames.length < 2) return null;
  const bare = { field: "name", type: "nominal", sort: names, scale: { domain: names }, axis: null };
  if (LETTER * groups.length <= Math.min(180, width / 4)) {
    state.panel = "letters";
    return letterPanel(groups, names, height, bare);
  }
  const cell = Math.min(CELL, width / 2 / methodNames.length);
  if (cell < 5) return null;
  state.panel = "squares";
  const order = { field: "other", type: "nominal", sort: methodNames, axis: null, scale: { domain: methodNames, paddingInner: 0.15 } };
  const cells = methodNames.flatMap((name) => [name, ...tiedWith(name, metric.key)].map((other) => ({ name, other, same: name === other,
    text: name === other ? name : `${name} and ${other} cannot be told apart` })));
  return { width: cell * methodNames.length, height, data: { values: cells },
    mark: { type: "rect", cursor: "pointer" }, encoding: { x: order, y: { ...bare, scale: { domain: names, paddingInner: 0.15 } },
      color: { condition: [{ test: "datum.same", value: colour("text") }, { test: { field: "name", equal: state.marked }, value: colour("accent") }], value: colour("square") },
      tooltip: { field: "text" } } };
}

function letterPanel(groups, names, height, bare) {
  const marks = groups.flatMap((group, place) => group.map((one) => ({ name: state.result.rows[one].name, place, letter: letterOf(place) })));
  // A line joins neighbouring rows that share the letter; past a row without it, it would look like a member's.
  const spans = groups.flatMap((group, place) => {
    const inside = group.map((one) => names.indexOf(state.result.rows[one].name)).sort((a, b) => a - b);
    const pairs = inside.slice(1).map((row, before) => [inside[before], row]).filter(([one, next]) => next === one + 1);
    return pairs.map(([one, next]) => ({ place, first: names[one], last: names[next] }));
  });
  const x = { field: "place", type: "ordinal", axis: null, scale: { domain: groups.map((_, place) => place) } };
  return {
    width: LETTER * groups.length, height,
    layer: [
      { data: { values: spans }, mark: { type: "rule", strokeWidth: 1.5, color: colour("muted"), opacity: 0.7 }, encoding: { x, y: { ...bare, field: "first" }, y2: { field: "last" } } },
      { data: { values: marks }, mark: { type: "circle", size: 170, color: colour("surface"), opacity: 1 }, encoding: { x, y: bare } },
      { data: { values: marks }, mark: { type: "text", fontSize: 12, fontWeight: "bold", baseline: "middle", color: colour("text") }, encoding: { x, y: bare, text: { field: "letter" } } },
    ],
  };
}

// a to z, then a1 to z1, as the report's tables have them.
const letterOf = (place) => String.fromCharCode(97 + (place % 26)) + (place < 26 ? "" : Math.floor(place / 26));

function renderApart() {
  const metric = metricOf(state.metric), all = methods().filter((row) => score(row, state.metric));
  if (!metric.tested || all.length < 2) {
    const known = all.length > 1 && metric.differences.length > 0;
    fill("apart-choice", known ? withChoice() : null);
    fill("apart", element("p", { class: "note" }, all.length < 2 ? "There are not two methods to compare." : `No two methods are told apart on ${metric.label}, because ${metric.untested}. Whether intervals overlap is no test.`),
      known ? withDifferences(metric) : null);
    return;
  }
  fill("apart-choice", withChoice());
  const tied = tiedWith(state.marked, state.metric), mean = score(all.find((row) => row.name === state.marked), state.metric).mean;
  const rest = ranked(state.metric).filter((row) => !row.control && row.name !== state.marked);
  const between = differencesTo(state.marked, metric);
  const lists = [
    [`cannot be told from ${state.marked}`, rest.filter((row) => tied.has(row.name)), "●"],
    [`above ${state.marked}`, rest.filter((row) => !tied.has(row.name) && score(row, state.metric).mean > mean), "○"],
    [`below ${state.marked}`, rest.filter((row) => !tied.has(row.name) && score(row, state.metric).mean <= mean), "○"],
  ];
  fill("apart", element("dl", { class: "apart" }, ...lists.filter(([, rows]) => rows.length).flatMap(([label, rows, sign]) => [
    element("dt", { dir: "auto" }, element("span", { "aria-hidden": "true" }, `${sign} `), `${rows.length} ${label}`),
    ...rows.map((row) => element("dd", { dir: "auto" }, element("span", {}, row.name), element("span", { class: "by", dir: "ltr" }, between[row.name] || "")))])),
    element("p", { class: "key" }, `The number behind a method is its mean minus that of ${state.marked}, with the 95 % interval of that pair alone. The tests correct for all pairs, so an interval may exclude 0 where two methods cannot be told apart.`));
}

const withChoice = () => choice("Compare with", ranked(state.metric).filter((row) => !row.control).map((row) => [row.name, row.name]), state.marked, mark);

// What is known where no verdict is given: differences with intervals, and p where one was computed.
function withDifferences(metric) {
  const between = differencesTo(state.marked, metric, true), rest = ranked(state.metric).filter((row) => !row.control && between[row.name]);
  if (!rest.length) return element("p", { class: "key" }, `Differences were computed with the method of the best mean alone, which is not ${state.marked}.`);
  return element("dl", { class: "apart" }, element("dt", { dir: "auto" }, `mean minus that of ${state.marked}`),
    ...rest.map((row) => element("dd", { dir: "auto" }, element("span", {}, row.name), element("span", { class: "by", dir: "ltr" }, between[row.name]))));
}

// By method, its mean minus that of `name`, with the interval; with p if asked.
function differencesTo(name, metric, probable) {
  const rows = state.result.rows, place = rows.findIndex((row) => row.name === name), found = {};
  for (const [first, second, difference, low, high, p] of metric.differences) {
    const shown = (value) => two(metric.factor * value), behind = probable && p ? `, p ${p}` : "";
    if (second === place) found[rows[first].name] = `${signed(shown(difference))} [${shown(low)}, ${shown(high)}]${behind}`;
    if (first === place) found[rows[second].name] = `${signed(shown(-difference))} [${shown(-high)}, ${shown(-low)}]${behind}`;
  }
  return found;
}

const two = (value) => fixed(value, 2);
// With a sign unless it is 0.
const signed = (text) => (Number(text) > 0 ? `+${text}` : text);

function mark(name) {
  if (!methods().some((row) => row.name === name)) return;
  state.marked = name;
  renderApart();
  drawScores();
}

async function drawScores() {
  const metric = metricOf(state.metric);
  await draw("score-plot", `${metric.label} of every method with its 95 % interval. ${metric.headline}`, scoreSpec, mark);
  const compared = metric.tested && methods().length > 1;
  const said = [`Dots are means over the test documents, and lines are their 95 % intervals, which cover other documents${metric.seeds ? " and other seeds" : ""}.`];
  if (metric.tested && methods().every((row) => row.seeds.length === 1)) said.push("Each method was trained with one seed; the variance between seeds was measured in earlier runs.");
  if (compared) said.push(`The large dot is ${state.marked}; ● cannot be told from it, ○ can.`);
  if (state.result.rows.some((row) => row.control)) said.push("◇ controls, which train nothing.");
  if (state.panel === "letters") said.push("Methods that share a letter cannot be told apart; those that share none can.");
  if (state.panel === "squares") said.push("A square to the right marks two methods that cannot be told apart; the columns stand in the order of the rows.");
  if (compared) said.push("Tests compare two methods on the same documents, so they may tell two apart whose intervals overlap. Click a dot to compare with it.");
  fill("score-key", said.join(" "));
}

function renderScores() {
  const { metrics, rows, columns } = state.result;
  const first3 = metrics.slice(0, 3).map((metric) => [metric.key, metric.label]), others = metrics.slice(3).map((metric) => [metric.key, metric.label]);
  const change = (key) => { if (!key) return; state.metric = key; showScores(); renderCosts(); };
  fill("metric-choice", radios("Metric", first3, state.metric, change),
    others.length ? choice("Other metric", [["", "none"], ...others], others.some(([key]) => key === state.metric) ? state.metric : "", change) : null);
  const shown = metrics.filter((metric, place) => place < 3 || metric.key === state.metric);
  const figures = ["train", "max_allocated", "max_resident", "parameters_trainable"].map((key) => columns.find((column) => column.key === key)).filter(Boolean);
  const first = shown.findIndex((metric) => metric.key === state.metric);
  const heads = [{ label: "method" }, ...shown.map((metric) => ({ label: metric.label, numeric: true, descending: !metric.falls })), ...figures.map((column) => ({ label: column.label, numeric: true }))];
  const cells = rows.map((row) => ({ control: row.control, cells: [
    { text: row.name, value: row.name },
    ...shown.map((metric) => scoreCell(row, metric)),
    ...figures.map((column) => figureCell(row, column)),
  ] }));
  fill("score-table", sortableTable("Scores with 95 % intervals and letters, and what methods cost", heads, cells, { place: first + 1, descending: !metricOf(state.metric).falls }));
  const every = [{ label: "method" }, ...metrics.map((metric) => ({ label: metric.label, numeric: true, descending: !metric.falls }))];
  fill("metric-table", metrics.length > shown.length ? element("details", {}, element("summary", {}, `All ${metrics.length} metrics`),
    sortableTable("Every metric with its 95 % interval", every, rows.map((row) => ({ control: row.control, cells: [{ text: row.name, value: row.name }, ...metrics.map((metric) => scoreCell(row, metric))] })))) : null);
  fill("gate", verdictTable(state.result.verdicts));
  fill("notes", ...[...state.result.notes, ...state.result.deaths.map((death) => `Dead: ${death}.`)].map((note) => element("p", { class: "note", dir: "auto" }, note)));
}

function scoreCell(row, metric) {
  const found = score(row, metric.key);
  return found ? { text: found.text, more: found.span, letters: lettersOf(row, metric.key), value: found.mean } : { text: DASH, value: null };
}

function figureCell(row, column) {
  const [value, text] = own(row.figures, column.key) || [null, DASH];
  return { text, value };
}

function showScores() {
  const best = ranked(state.metric)[0];
  if (!methods().some((row) => row.name === state.marked) || state.marked === state.default) state.marked = state.default = best ? best.name : "";
  byId("headline").textContent = metricOf(state.metric).headline;
  renderScores();
  renderApart();
  drawScores();
}
