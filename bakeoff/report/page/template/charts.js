// Charts by Vega-Lite, in the page's colours; each has a description, and a table elsewhere with the same figures.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const SERIES = ["series-1", "series-2", "series-3", "series-4", "series-5", "series-6"];
const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];
const DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [10, 4]];
const drawn = new Map();
let lastDrawing = Promise.resolve();

function theme() {
  const text = colour("text"), faint = colour("line"), muted = colour("muted");
  const axis = { labelColor: muted, titleColor: text, gridColor: faint, domainColor: faint, tickColor: faint, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 170 };
  return {
    background: null, font: getComputedStyle(document.body).fontFamily, view: { stroke: null }, axis,
    legend: { labelColor: text, titleColor: text, labelFontSize: 12, labelLimit: 220, symbolSize: 70 },
    title: { color: text, fontWeight: "normal", fontSize: 13, anchor: "start" },
    range: { category: SERIES.map(colour) },
  };
}

// Draws `make(width)` into the element; it is drawn again when the width or the colours change.
function draw(id, description, make, clicked) {
  drawn.set(id, { description, make, clicked, width: 0 });
  const drawing = redraw(id);
  lastDrawing = Promise.allSettled([lastDrawing, drawing]);
  return drawing;
}

async function redraw(id) {
  const chart = drawn.get(id), box = byId(id);
  chart.width = box.clientWidth;
  const ticket = (chart.ticket = {});
  const spec = chart.make(Math.max(260, chart.width));
  if (!spec) { box.replaceChildren(); return; }
  // ast: expressions are interpreted, since the page's policy forbids code made from text.
  const options = { ast: true, actions: false, renderer: "svg", config: theme(), tooltip: { theme: "page" } };
  const target = element("div");
  const made = await vegaEmbed(target, { ...spec, description: chart.description }, options);
  if (chart.ticket !== ticket) { made.finalize(); return; } // a newer drawing is on its way
  if (chart.made) chart.made.finalize();
  chart.made = made;
  box.replaceChildren(target);
  if (chart.clicked) {
    made.view.addEventListener("click", (event, item) => { if (item && item.datum && item.datum.name) chart.clicked(item.datum.name); });
  }
}

const redrawAll = () => drawn.forEach((_, id) => redraw(id));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
let waiting = 0;
addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => drawn.forEach((chart, id) => { if (byId(id).clientWidth !== chart.width) redraw(id); }), 150);
});

const measure = document.createElement("canvas").getContext("2d");
function textWidth(words, most) {
  measure.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  return Math.min(most, Math.max(20, ...words.map((word) => measure.measureText(word).width)));
}

// A method's colour, mark and dashes stay the same in every chart and result; two methods never share all of them.
const everyName = [...new Set([...data.results].reverse().flatMap((result) => result.rows.map((row) => row.name)))];
function styleOf(name) {
  const place = everyName.indexOf(name), round = Math.floor(place / SERIES.length);
  return { colour: colour(SERIES[place % SERIES.length]), shape: SHAPES[(place + round) % SHAPES.length], dash: DASHES[round % DASHES.length] };
}

function scales(names) {
  const styles = names.map(styleOf);
  return {
    color: { domain: names, range: styles.map((style) => style.colour) },
    shape: { domain: names, range: styles.map((style) => style.shape) },
    dash: { domain: names, range: styles.map((style) => style.dash) },
  };
}
