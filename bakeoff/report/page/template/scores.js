// The first screen: one metric of every method, what the tests tell apart, and a small table.

function tiedWith(name, key) {
  const place = state.result.rows.findIndex((row) => row.name === name);
  const tied = new Set();
  for (const group of metricOf(key).groups) if (group.includes(place)) group.forEach((one) => tied.add(state.result.rows[one].name));
  tied.delete(name);
  return tied;
}

function ranked(key) {
  const order = state.result.rows.filter((row) => score(row, key)).sort(by((row) => -score(row, key).mean));
  return [...order.filter((row) => !row.control), ...order.filter((row) => row.control)];
}

function scoreSpec(width) {
  const metric = metricOf(state.metric), rows = ranked(state.metric), factor = metric.factor;
  const tied = metric.tested ? tiedWith(state.marked, state.metric) : new Set();
  const role = (row) => row.control ? "control" : !metric.tested ? "method" : row.name === state.marked ? "marked" : tied.has(row.name) ? "tied" : "apart";
  const values = rows.map((row) => {
    const found = score(row, state.metric);
    return { name: row.name, role: role(row), mean: factor * found.mean, low: found.low === null ? null : factor * found.low,
      high: found.high === null ? null : factor * found.high, text: `${found.text} ${found.span} ${found.letters}`.trim() };
  });
  const names = rows.map((row) => row.name), height = Math.max(60, 22 * rows.length);
  const count = metric.groups.length, lettersWidth = count > 1 || (count && metric.groups[0].length > 1) ? 15 * count : 0;
  const roles = ["marked", "tied", "method", "apart", "control"];
  const fill = [colour("accent"), colour("accent"), colour("accent"), colour("surface"), colour("surface")];
  const stroke = [colour("accent"), colour("accent"), colour("accent"), colour("muted"), colour("muted")];
  const y = { field: "name", type: "nominal", sort: names, title: null, axis: { labelPadding: 6, domain: false, ticks: false, grid: false } };
  const strokeScale = { field: "role", type: "nominal", scale: { domain: roles, range: stroke }, legend: null };
  const main = {
    width: Math.max(150, width - textWidth(names, 170) - lettersWidth - 46), height, data: { values },
    layer: [
      { mark: { type: "rule", strokeWidth: 2 }, encoding: { x: { field: "low", type: "quantitative", title: [metric.label, metric.unit].filter(Boolean).join(" "), scale: { zero: false } }, x2: { field: "high" }, y, color: strokeScale } },
      { mark: { type: "point", filled: true, size: 70, strokeWidth: 2, opacity: 1, cursor: "pointer" },
        encoding: { x: { field: "mean", type: "quantitative" }, y, stroke: strokeScale,
          fill: { field: "role", type: "nominal", scale: { domain: roles, range: fill }, legend: null },
          shape: { field: "role", type: "nominal", scale: { domain: roles, range: ["circle", "circle", "circle", "circle", "diamond"] }, legend: null },
          size: { condition: { test: "datum.role === 'marked'", value: 130 }, value: 70 },
          tooltip: [{ field: "name", title: "method" }, { field: "text", title: metric.label }] } },
    ],
  };
  if (!lettersWidth) return main;
  const marks = metric.groups.flatMap((group, place) => group.map((one) => ({ name: state.result.rows[one].name, place, letter: letterOf(place) })));
  const spans = metric.groups.map((group, place) => {
    const inside = group.map((one) => names.indexOf(state.result.rows[one].name)).sort((a, b) => a - b);
    return { place, first: names[inside[0]], last: names[inside[inside.length - 1]] };
  });
  const bare = { field: "name", type: "nominal", sort: names, scale: { domain: names }, axis: null };
  const x = { field: "place", type: "ordinal", axis: null, scale: { domain: metric.groups.map((_, place) => place) } };
  const letters = {
    width: lettersWidth, height,
    layer: [
      { data: { values: spans }, mark: { type: "rule", strokeWidth: 1.5, color: colour("muted"), opacity: 0.7 }, encoding: { x, y: { ...bare, field: "first" }, y2: { field: "last" } } },
      { data: { values: marks }, mark: { type: "circle", size: 170, color: colour("surface"), opacity: 1 }, encoding: { x, y: bare } },
      { data: { values: marks }, mark: { type: "text", fontSize: 12, fontWeight: "bold", baseline: "middle", color: colour("text") }, encoding: { x, y: bare, text: { field: "letter" } } },
    ],
  };
  return { hconcat: [main, letters], spacing: 10, resolve: { scale: { y: "independent", x: "independent" } } };
}

// a, b, ..., z, aa, ab, as the report's tables have them.
function letterOf(place) {
  const letter = String.fromCharCode(97 + (place % 26));
  return place < 26 ? letter : letterOf(Math.floor(place / 26) - 1) + letter;
}

function renderApart() {
  const metric = metricOf(state.metric), all = methods().filter((row) => score(row, state.metric));
  if (!metric.tested || all.length < 2) {
    fill("apart-choice");
    fill("apart", element("p", { class: "note" }, all.length < 2 ? "There are not two methods to compare." : `No two methods are told apart on ${metric.label}: ${metric.untested || "they were not tested, or the variance between seeds is not known. Overlapping intervals are no test."}`));
    return;
  }
  fill("apart-choice", choice("Compare with", ranked(state.metric).filter((row) => !row.control).map((row) => [row.name, row.name]), state.marked, mark));
  const tied = tiedWith(state.marked, state.metric), mean = score(all.find((row) => row.name === state.marked), state.metric).mean;
  const rest = ranked(state.metric).filter((row) => !row.control && row.name !== state.marked);
  const lists = [
    [`cannot be told from ${state.marked}`, rest.filter((row) => tied.has(row.name)), "●"],
    [`above ${state.marked}`, rest.filter((row) => !tied.has(row.name) && score(row, state.metric).mean > mean), "○"],
    [`below ${state.marked}`, rest.filter((row) => !tied.has(row.name) && score(row, state.metric).mean <= mean), "○"],
  ];
  fill("apart", element("dl", { class: "apart" }, ...lists.filter(([, rows]) => rows.length).flatMap(([label, rows, sign]) => [
    element("dt", { dir: "auto" }, element("span", { "aria-hidden": "true" }, `${sign} `), `${rows.length} ${label}`),
    element("dd", { dir: "auto" }, listing(rows.map((row) => row.name)))])));
}

function mark(name) {
  if (!methods().some((row) => row.name === name)) return;
  state.marked = name;
  renderApart();
  drawScores();
}

function drawScores() {
  const metric = metricOf(state.metric);
  draw("score-plot", `${metric.label} of every method with its 95 % interval. ${metric.headline}`, scoreSpec, mark);
  const said = ["Dots are means over the test documents, lines are 95 % intervals."];
  if (metric.tested) said.push(`● ${state.marked}, and all that cannot be told from it. ○ told apart from it.`);
  if (state.result.rows.some((row) => row.control)) said.push("◇ controls, which train nothing.");
  if (metric.tested && methods().length > 1) said.push("Methods that share a letter cannot be told apart; a line joins each letter. Click a dot to compare with it.");
  fill("score-key", said.join(" "));
}

function renderScores() {
  const { metrics, rows, columns } = state.result;
  fill("metric-choice", radios("Metric", metrics.map((metric) => [metric.key, metric.label]), state.metric, (key) => { state.metric = key; showScores(); renderCosts(); }));
  const shown = metrics.filter((metric) => rows.some((row) => score(row, metric.key))).slice(0, 4);
  const figures = ["train", "max_allocated", "max_resident", "parameters_trainable"].map((key) => columns.find((column) => column.key === key)).filter(Boolean);
  const first = shown.findIndex((metric) => metric.key === state.metric);
  const heads = [{ label: "method" }, ...shown.map((metric) => ({ label: metric.label, numeric: true, descending: true })), ...figures.map((column) => ({ label: column.label, numeric: true }))];
  const cells = rows.map((row) => ({ control: row.control, cells: [
    { text: row.name, value: row.name },
    ...shown.map((metric) => scoreCell(row, metric)),
    ...figures.map((column) => figureCell(row, column)),
  ] }));
  fill("score-table", sortableTable("Scores with 95 % intervals and letters, and what methods cost", heads, cells, { place: first + 1, descending: true }));
  fill("notes", ...[...state.result.notes, ...state.result.deaths.map((death) => `Dead: ${death}.`)].map((note) => element("p", { class: "note", dir: "auto" }, note)));
}

function scoreCell(row, metric) {
  const found = score(row, metric.key);
  return found ? { text: found.text, more: found.span, letters: found.letters, value: found.mean } : { text: DASH, value: null };
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
