// Puts the page together, and again when another result is chosen.

function show(result) {
  state.result = result;
  const keys = result.metrics.map((metric) => metric.key);
  if (!keys.includes(state.metric)) state.metric = keys.includes("rougeL") ? "rougeL" : keys[0] || "";
  byId("compared").textContent = result.compared;
  byId("scores").hidden = !keys.length;
  if (keys.length) showScores();
  renderDocuments();
  renderCosts();
  renderCurves();
  renderFigures();
  renderSettings();
  const sections = [...document.querySelectorAll("main > section")].filter((section) => !section.hidden);
  fill("sections", ...sections.map((section) => element("li", {}, element("a", { href: `#${section.id}` }, section.querySelector("h2").textContent))));
}

if (data.results.length > 1) {
  const options = data.results.map((result, place) => [String(place), result.name]);
  fill("result-choice", choice("Result that is shown below", options, String(data.results.length - 1), (place) => show(data.results[Number(place)])));
}
show(state.result);
if (data.time) renderTime();
watchKeys();
followHash(true);
lastDrawing.then(() => followHash(true)); // charts have moved what stands below them
