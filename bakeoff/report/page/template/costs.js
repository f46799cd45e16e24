// Scores against costs with the frontier that follows from tests, and one figure of every method.

const chosen = { cost: "", figure: "" };

function renderCosts() {
  const costs = state.result.columns.filter((column) => column.cost && methods().filter((row) => own(row.figures, column.key)[0] !== null).length > 1);
  byId("costs").hidden = !costs.length || !state.metric;
  if (byId("costs").hidden) return;
  if (!costs.some((column) => column.key === chosen.cost)) chosen.cost = (costs.find((column) => column.key === "train") || costs[0]).key;
  fill("cost-choice",
    choice("Across", costs.map((column) => [column.key, column.label]), chosen.cost, (key) => { chosen.cost = key; renderCosts(); }),
    choice("Up", state.result.metrics.map((metric) => [metric.key, metric.label]), state.metric, (key) => { state.metric = key; showScores(); renderCosts(); }));
  const steps = own(own(state.result.frontiers, state.metric), chosen.cost);
  const column = costs.find((one) => one.key === chosen.cost), metric = metricOf(state.metric);
  byId("cost-text").textContent = steps
    ? `The frontier: ${listing(steps)}. A corrected test finds each method on it above the one before; all others cost more than a method that they cannot be told from, or that is above them.`
    : "No frontier is drawn, because not every two methods were tested, or a method's cost was not measured.";
  draw("cost-plot", `${metric.label} of every method against ${column.label}`, (width) => costSpec(width, column, metric, steps || []), mark);
}

function costSpec(width, column, metric, steps) {
  const factor = metric.factor;
  const values = methods().filter((row) => score(row, metric.key) && score(row, metric.key).mean !== null && own(row.figures, column.key)[0] !== null).map((row) => {
    const found = score(row, metric.key), [cost, text] = own(row.figures, column.key);
    return { name: row.name, cost, costText: text, mean: factor * found.mean, low: found.low === null ? null : factor * found.low,
      high: found.high === null ? null : factor * found.high, text: `${found.text} ${found.span} ${lettersOf(row)}`.trim(), on: steps.includes(row.name) };
  });
  const costs = values.map((value) => value.cost), log = Math.min(...costs) > 0 && Math.max(...costs) > 20 * Math.min(...costs);
  const bytes = column.group === "memory";
  const x = { field: "cost", type: "quantitative", title: column.label + (bytes ? ", bytes" : ""), scale: { type: log ? "log" : "linear", zero: false, nice: true, padding: 12 },
    axis: { format: "~s", tickCount: width < 500 ? 4 : 8, labelOverlap: true } };
  const y = { field: "mean", type: "quantitative", title: axisTitle(metric), scale: { zero: false } };
  const tone = { condition: { test: "datum.on", value: colour("accent") }, value: colour("muted") };
  const label = { type: "text", align: "left", dx: 8, dy: -6, fontSize: 11, limit: 150 };
  return {
    width: width - 60, height: Math.min(440, Math.max(260, width * 0.55)), data: { values }, autosize: { type: "fit", contains: "padding" },
    layer: [
      { data: { values: values.filter((value) => value.on) }, mark: { type: "line", interpolate: "step-after", strokeWidth: 1.5, color: colour("accent") }, encoding: { x, y, order: { field: "cost" } } },
      { mark: { type: "rule", strokeWidth: 1, opacity: 0.8 }, encoding: { x, y: { field: "low", type: "quantitative" }, y2: { field: "high" }, color: tone } },
      { mark: { type: "point", filled: true, size: 75, strokeWidth: 2, opacity: 1, cursor: "pointer" },
        encoding: { x, y, stroke: tone, fill: { condition: { test: "datum.on", value: colour("accent") }, value: colour("surface") },
          tooltip: [{ field: "name", title: "method" }, { field: "text", title: metric.label }, { field: "costText", title: column.label }] } },
      { data: { values: values.filter((value) => value.on || (values.length <= 16 && width >= 500)) }, mark: label,
        encoding: { x, y, text: { field: "name" }, color: { condition: { test: "datum.on", value: colour("text") }, value: colour("muted") } } },
    ].filter((layer) => !layer.data || layer.data.values.length), // Vega warns of a layer without data
  };
}

const GROUPS = { seconds: "Seconds of a run, the mean over its seeds", memory: "Memory and disk, the highest of the seeds", parameters: "Parameters: each tensor once, and tied tensors under every name", effects: "Side effects" };

function renderFigures() {
  const { columns } = state.result;
  byId("figures").hidden = !columns.length;
  if (!columns.length) return;
  if (!columns.some((column) => column.key === chosen.figure)) chosen.figure = columns[0].key;
  fill("figure-choice", choice("Figure", columns.map((column) => [column.key, column.label]), chosen.figure, (key) => { chosen.figure = key; drawFigure(); }));
  drawFigure();
  fill("figure-tables", ...Object.entries(GROUPS).map(([group, caption]) => {
    const inside = columns.filter((column) => column.group === group);
    if (!inside.length) return null;
    const rows = state.result.rows.filter((row) => inside.some((column) => own(row.figures, column.key)[0] !== null));
    const table = sortableTable(caption, [{ label: "method" }, ...inside.map((column) => ({ label: column.label, numeric: true, descending: column.best === "highest" }))],
      rows.map((row) => ({ control: row.control, cells: [{ text: row.name, value: row.name }, ...inside.map((column) => figureCell(row, column))] })));
    return element("details", { open: rows.length <= 12 }, element("summary", {}, caption), table);
  }));
}

function drawFigure() {
  const column = state.result.columns.find((one) => one.key === chosen.figure);
  draw("figure-plot", `${column.label} of every method`, (width) => {
    const values = methods().map((row) => ({ name: row.name, value: own(row.figures, column.key)[0], text: own(row.figures, column.key)[1] })).filter((one) => one.value !== null);
    const sign = column.best === "highest" ? -1 : 1, names = values.sort(by((one) => sign * one.value)).map((one) => one.name);
    const y = { field: "name", type: "nominal", sort: names, title: null, axis: { domain: false, ticks: false, labelPadding: 6 } };
    const x = { field: "value", type: "quantitative", title: column.label + (column.group === "memory" || column.key.endsWith("_bytes") ? ", bytes" : ""), axis: { format: "~s", tickCount: 5 } };
    return { width: Math.min(760, width) - textWidth(names, 170) - 100, height: Math.max(50, 20 * values.length), data: { values },
      layer: [{ mark: { type: "bar", color: colour("accent"), height: 12 }, encoding: { x, y, tooltip: [{ field: "name", title: "method" }, { field: "text", title: column.label }] } },
        { mark: { type: "text", align: "left", dx: 4, fontSize: 11, color: colour("text") }, encoding: { x, y, text: { field: "text" } } }] };
  });
}

function renderSettings() {
  const names = methods().map((row) => row.name), { settings, environment, facts } = state.result;
  fill("setting-table", settings.length ? sortableTable(`Settings in which the methods differ; ${DASH} means that a method has no such setting`,
    [{ label: "setting" }, ...names.map((name) => ({ label: name }))],
    settings.map(([key, values]) => ({ cells: [{ text: key, value: key }, ...values.map((value) => ({ text: value, value }))] })))
    : element("p", {}, names.length > 1 ? "The methods differ in no setting." : ""));
  fill("environment", element("details", {}, element("summary", {}, "Model, task and machine"),
    element("dl", { class: "facts" }, ...[...facts, ...environment].flatMap(([name, value]) => [element("dt", {}, name), element("dd", { dir: "auto" }, value)]))));
}
