// Several results: one metric of each method over time or side by side, the gate's verdicts, and what changed.

const overTime = { metric: "", shown: null };

function renderTime() {
  const { points, verdicts, changes, metrics, notes } = data.time;
  const names = [...new Set(points.map((point) => point.method))];
  if (!metrics.some((metric) => metric.key === overTime.metric)) overTime.metric = (metrics.find((metric) => metric.key === data.time.first) || metrics[0] || { key: "" }).key;
  if (!overTime.shown) overTime.shown = new Set(names.slice(0, MOST));
  const boxes = names.map((name) => element("label", {}, element("input", { type: "checkbox", checked: overTime.shown.has(name),
    change: (event) => { overTime.shown[event.target.checked ? "add" : "delete"](name); drawTime(); } }), element("span", { dir: "auto" }, name)));
  fill("time-choice",
    radios("Metric of all results", metrics.map((metric) => [metric.key, metric.label]), overTime.metric, (key) => { overTime.metric = key; renderTime(); }),
    element("details", { class: "picker", open: names.length <= MOST }, element("summary", {}, `Methods (${names.length})`), element("div", { class: "boxes" }, ...boxes)));
  drawTime();
  const inside = points.filter((point) => point.metric === overTime.metric);
  const falls = metrics.some((metric) => metric.key === overTime.metric && metric.falls);
  const heads = [{ label: "method" }, ...data.results.map((result) => ({ label: result.name, numeric: true, descending: !falls }))];
  fill("time-table", sortableTable(`${label(overTime.metric)} with its 95 % interval in every result`, heads, names.map((name) => ({ cells: [{ text: name, value: name },
    ...data.results.map((_, place) => {
      const found = inside.find((point) => point.method === name && point.place === place);
      return found ? { text: found.text, more: found.span, value: found.mean } : { text: DASH, value: null };
    })] }))));
  fill("time-gate", verdictTable(verdicts),
    ...notes.map((note) => element("p", { class: "note", dir: "auto" }, note)));
  fill("time-changes", ...changes.map((one) => element("details", { open: changes.length < 4 && one.changed.length <= 20 }, element("summary", { dir: "auto" }, `${one.from} → ${one.to}: ${one.changed.length ? `${one.changed.length} changed` : "no setting and no version changed"}`),
    element("ul", {}, ...one.changed.map((text) => element("li", { dir: "auto" }, text))))));
}

function verdictTable(verdicts) {
  if (!verdicts.length) return null;
  const heads = ["result", "against", "method", "metric", "verdict"].map((text) => ({ label: text }));
  const cells = (one) => [...[one.result, one.against, one.method, one.metric, one.verdict].map((text) => ({ text, value: text, strong: text === "regressed" })),
    { text: one.difference, value: one.value }, { text: one.p, value: one.pValue }];
  return sortableTable("Verdicts of the gate", [...heads, { label: "difference", numeric: true }, { label: "p", numeric: true }],
    verdicts.map((one) => ({ cells: cells(one) })), { place: 0, descending: true });
}

const label = (key) => (data.time.metrics.find((metric) => metric.key === key) || { label: key }).label;

function drawTime() {
  const metric = data.time.metrics.find((one) => one.key === overTime.metric);
  const inside = data.time.points.filter((point) => point.metric === overTime.metric && overTime.shown.has(point.method));
  const names = [...new Set(inside.map((point) => point.method))], dated = data.time.dated;
  draw("time-plot", `${label(overTime.metric)} of ${listing(names)} in ${data.results.length} results`, (width) => {
    if (!inside.length) return null;
    const order = data.results.map((result) => result.name), found = scales(names);
    const values = inside.map((point) => ({ ...point, name: point.method, result: order[point.place], mean: metric.factor * point.mean, low: point.low === null ? null : metric.factor * point.low, high: point.high === null ? null : metric.factor * point.high, shown: `${point.text} ${point.span}` }));
    const legend = { orient: "bottom", columns: Math.max(1, Math.floor(width / 190)), title: null };
    const x = dated ? { field: "finished", type: "temporal", title: "finished", scale: { padding: 16 } } : { field: "result", type: "ordinal", sort: order, title: "result", axis: { labelAngle: 0, labelLimit: width / order.length } };
    const offset = dated ? {} : { xOffset: { field: "name", type: "nominal", scale: { domain: names } } };
    const y = { field: "mean", type: "quantitative", title: axisTitle(metric), scale: { zero: false } };
    const color = { field: "name", type: "nominal", scale: found.color, legend };
    return { width, height: 300, autosize: { type: "fit-x", contains: "padding" }, data: { values },
      layer: [
        { mark: { type: "line", strokeWidth: 1.5 }, encoding: { x, ...offset, y, color, detail: { field: "series" }, strokeDash: { field: "name", type: "nominal", scale: found.dash, legend } } },
        { mark: { type: "rule", strokeWidth: 1.5, opacity: 0.8 }, encoding: { x, ...offset, y: { field: "low", type: "quantitative" }, y2: { field: "high" }, color } },
        { mark: { type: "point", filled: true, size: 70, opacity: 1 }, encoding: { x, ...offset, y, color, shape: { field: "name", type: "nominal", scale: found.shape, legend },
          tooltip: [{ field: "name", title: "method" }, { field: "result" }, { field: "shown", title: metric.label }] } },
      ] };
  });
}
