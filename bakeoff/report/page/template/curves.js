// The loss of every seed, by step or by epoch.

const curves = { axis: "epoch", shown: null, of: null };
const MOST = 6;

function renderCurves() {
  const rows = methods().filter((row) => row.epochs.some((run) => run.length) || (own(state.result.steps, row.name) || []).some((run) => run.length));
  byId("curves").hidden = !rows.length;
  if (!rows.length) return;
  if (curves.of !== state.result) {
    const names = new Set(rows.map((row) => row.name));
    curves.shown = new Set(ranked(state.metric).map((row) => row.name).filter((name) => names.has(name)).slice(0, MOST));
    curves.of = state.result;
  }
  const stepped = rows.some((row) => (own(state.result.steps, row.name) || []).some((run) => run.length));
  if (!stepped) curves.axis = "epoch";
  const boxes = rows.map((row) => element("label", {}, element("input", { type: "checkbox", checked: curves.shown.has(row.name),
    change: (event) => { curves.shown[event.target.checked ? "add" : "delete"](row.name); drawCurves(rows); } }), element("span", { dir: "auto" }, row.name)));
  const all = (on) => () => { curves.shown = new Set(on ? rows.map((row) => row.name) : []); renderCurves(); };
  fill("curve-choice",
    stepped ? radios("By", [["epoch", "epoch"], ["step", "step"]], curves.axis, (key) => { curves.axis = key; drawCurves(rows); }) : null,
    element("details", { class: "picker", open: rows.length <= MOST }, element("summary", {}, `Methods (${rows.length})`),
      element("div", { class: "boxes" }, element("button", { type: "button", click: all(true) }, "All"), element("button", { type: "button", click: all(false) }, "None"), ...boxes)));
  drawCurves(rows);
  byId("curve-text").textContent = `${stepped ? "Thin lines are the training loss of each step. " : "Dashed lines are the mean training loss of each epoch. "}Marks are the validation loss; a ring shows the epoch that was evaluated. Every seed has a line of its own. At first the ${Math.min(MOST, rows.length)} methods with the highest mean are shown.`;
}

function drawCurves(rows) {
  const shown = rows.filter((row) => curves.shown.has(row.name)), names = shown.map((row) => row.name);
  draw("curve-plot", `Training and validation loss by ${curves.axis} of ${listing(names)}`, (width) => names.length ? curveSpec(width, shown, names) : null);
}

function curveSpec(width, rows, names) {
  const training = [], validation = [], byStep = curves.axis === "step";
  for (const row of rows) {
    const steps = own(state.result.steps, row.name) || [];
    row.epochs.forEach((run, seed) => {
      const made = steps[seed] || [], last = made[made.length - 1];
      const each = last ? last[0] / last[1] : 1; // steps of an epoch
      for (const [step, epoch, loss] of made) training.push({ name: row.name, seed, x: byStep ? step : epoch, loss });
      for (const point of run) {
        if (!made.length && point.training_loss != null && !byStep) training.push({ name: row.name, seed, x: point.epoch - 0.5, loss: point.training_loss });
        if (point.validation_loss != null) validation.push({ name: row.name, seed, seedText: String(row.seeds[seed] ?? seed), x: byStep ? point.epoch * each : point.epoch, loss: point.validation_loss, best: Boolean(point.best) });
      }
    });
  }
  const found = scales(names), stepped = rows.some((row) => (own(state.result.steps, row.name) || []).some((run) => run.length));
  const legend = { orient: "bottom", columns: Math.max(1, Math.floor(width / 190)), title: null };
  const color = { field: "name", type: "nominal", scale: found.color, legend }, shape = { field: "name", type: "nominal", scale: found.shape, legend };
  const x = { field: "x", type: "quantitative", title: curves.axis, scale: { nice: false }, axis: byStep ? {} : { tickMinStep: 1 } };
  const y = { field: "loss", type: "quantitative", title: "loss, nats per label token", scale: { zero: false } };
  const tooltip = [{ field: "name", title: "method" }, { field: "seedText", title: "seed" }, { field: "x", title: curves.axis }, { field: "loss", format: ".3f" }];
  return {
    width, height: Math.min(420, Math.max(260, width * 0.5)), autosize: { type: "fit-x", contains: "padding" },
    layer: [
      { data: { values: training }, mark: { type: "line", strokeWidth: 1, opacity: stepped ? 0.75 : 0.9, strokeDash: stepped ? [1, 0] : [5, 3] }, encoding: { x, y, color, detail: { field: "seed" } } },
      { data: { values: validation }, mark: { type: "line", strokeWidth: 2 }, encoding: { x, y, color, detail: { field: "seed" }, strokeDash: { field: "name", type: "nominal", scale: found.dash, legend } } },
      { data: { values: validation }, mark: { type: "point", filled: true, size: 60, opacity: 1 }, encoding: { x, y, color, shape, tooltip } },
      { data: { values: validation.filter((point) => point.best) }, mark: { type: "point", size: 190, strokeWidth: 1.5, color: colour("text"), shape: "circle" }, encoding: { x, y } },
    ],
  };
}
