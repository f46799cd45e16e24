// Every test document with its reference and what each method wrote: sorted, searched, filtered, and linked to.

const browser = { a: "", b: "", sort: "difference", query: "", from: "", to: "", id: "", most: 200, list: [] };
const SORTS = [["difference", "A and B differ most"], ["above", "A above B"], ["below", "B above A"], ["lowest", "A lowest"], ["highest", "A highest"], ["order", "order of the task"]];

const texts = () => state.result.texts || {};
const textRow = (name) => (texts().rows || []).indexOf(name);

// A document's score of a method in the chosen metric, in the unit that is shown; null where there is none.
function documentScore(name, place) {
  const table = own(texts().scores, state.metric), row = textRow(name);
  const found = table && row >= 0 ? table[row][place] : null;
  return found === null || found === undefined ? null : found * metricOf(state.metric).factor;
}

const words = (text) => {
  if (globalThis.Intl && Intl.Segmenter) return [...new Intl.Segmenter(undefined, { granularity: "word" }).segment(text)].map((part) => [part.segment, part.isWordLike]);
  return text.split(/([\p{L}\p{N}]+)/u).map((part, place) => [part, place % 2 === 1]);
};
const same = (word) => word.normalize("NFKC").toLocaleLowerCase();

// A summary as text in which the words that stand in a reference, too, are marked; with the number of its words.
function marked(text, known) {
  const parts = [];
  let shared = 0, all = 0, plain = "";
  for (const [part, wordlike] of words(text)) {
    all += wordlike ? 1 : 0;
    if (wordlike && known.has(same(part))) { parts.push(plain, element("mark", {}, part)); plain = ""; shared += 1; } else plain += part;
  }
  parts.push(plain);
  return { parts: parts.filter((part) => part !== ""), shared, all };
}

function matching() {
  const query = same(browser.query.trim());
  const list = texts().documents.map((document, place) => ({ document, place, a: documentScore(browser.a, place), b: documentScore(browser.b, place) }));
  const inside = list.filter(({ document, a }) => {
    if (browser.from !== "" && (a === null || a < Number(browser.from))) return false;
    if (browser.to !== "" && (a === null || a > Number(browser.to))) return false;
    if (!query) return true;
    const every = [document.id, document.document, ...document.items.flatMap((item) => [...item.references, ...item.summaries])];
    return every.some((text) => text !== null && same(text).includes(query));
  });
  const key = {
    difference: (one) => -Math.abs(one.a - one.b), above: (one) => one.b - one.a, below: (one) => one.a - one.b,
    lowest: (one) => one.a, highest: (one) => -one.a, order: (one) => one.place,
  }[browser.sort];
  const known = (one) => browser.sort === "order" || (one.a !== null && (one.b !== null || browser.sort.endsWith("est")));
  return inside.sort((first, second) => known(second) - known(first) || key(first) - key(second) || first.place - second.place);
}

function renderDocuments() {
  if (data.aside && !globalThis.bakeoffTexts) {
    fill("browser", element("p", { class: "note" }, `There are no texts and no losses by step: ${data.aside} is not beside this page. Put both files into one folder.`));
    return;
  }
  if (!texts().documents) {
    fill("browser", element("p", { class: "note" }, "There are no texts: details.json is not beside this result. Run the bake-off again: finished runs are taken from the store, and the report writes the file."));
    return;
  }
  const names = texts().rows, order = ranked(state.metric).map((row) => row.name).filter((name) => names.includes(name));
  if (!names.includes(browser.a)) browser.a = order[0] || names[0];
  if (!names.includes(browser.b) || browser.b === browser.a) browser.b = order.find((name) => name !== browser.a) || names[0];
  const options = names.map((name) => [name, name]);
  const again = (key) => (value) => { browser[key] = value; renderList(); };
  const field = (label, key, attributes) => element("label", { class: "choice" }, element("span", {}, label),
    element("input", { ...attributes, value: browser[key], input: (event) => { browser[key] = event.target.value; renderList(); } }));
  fill("browser",
    element("p", {}, `The ${texts().documents.length} test documents, with what the first seed of each method wrote. `, element("button", { type: "button", click: () => byId("help").showModal() }, "Keys")),
    element("div", { class: "choices" },
      choice("A", options, browser.a, again("a")), choice("B", options, browser.b, again("b")),
      choice("Sort", SORTS, browser.sort, again("sort")),
      field("Search", "query", { type: "search", id: "search", placeholder: "document, reference, summary" }),
      field("A from", "from", { type: "number", step: "any", id: "from" }), field("to", "to", { type: "number", step: "any", id: "to" })),
    element("div", { class: "panes" },
      element("div", { class: "pane" }, element("p", { id: "count", "aria-live": "polite" }), element("ol", { id: "list", tabindex: "0", "aria-label": "Documents" })),
      element("article", { id: "document", class: "pane", tabindex: "-1", "aria-label": "Document" })));
  renderList();
}

function renderList() {
  browser.list = matching();
  const metric = metricOf(state.metric), digits = metric.factor === 100 ? 1 : 3;
  const number = (value) => (value === null ? DASH : fixed(value, digits));
  const open = (id) => (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a tab of its own
    event.preventDefault();
    openDocument(id);
  };
  byId("count").textContent = `${browser.list.length} of ${texts().documents.length} documents; ${metric.label} of A, of B, and A minus B`;
  const items = browser.list.slice(0, browser.most).map((one) => element("li", {}, element("a", { href: link(one.document.id), "data-id": one.document.id, click: open(one.document.id) },
    element("span", { class: "id", dir: "auto" }, one.document.id),
    element("span", { class: "scores" }, `${number(one.a)}  ${number(one.b)}  ${one.a === null || one.b === null ? DASH : signed(number(one.a - one.b))}`),
    element("span", { class: "preview", dir: "auto" }, one.document.items[0].references[0].slice(0, 110)))));
  if (browser.list.length > browser.most) items.push(element("li", {}, element("button", { type: "button", click: () => { browser.most += 500; renderList(); } }, `Show more of ${browser.list.length}`)));
  byId("list").replaceChildren(...items);
  if (!browser.list.some((one) => one.document.id === browser.id)) browser.id = browser.list.length ? browser.list[0].document.id : "";
  renderDocument();
}

function renderDocument() {
  const place = texts().documents.findIndex((document) => document.id === browser.id);
  for (const anchor of byId("list").querySelectorAll("a")) {
    if (anchor.dataset.id === browser.id) anchor.setAttribute("aria-current", "true"); else anchor.removeAttribute("aria-current");
  }
  if (place < 0) { byId("document").replaceChildren(element("p", {}, "No document matches.")); return; }
  const found = texts().documents[place], metric = metricOf(state.metric), digits = metric.factor === 100 ? 1 : 3;
  const worth = (name) => (metric.falls ? -1 : 1) * documentScore(name, place), without = (name) => documentScore(name, place) === null;
  const rest = texts().rows.filter((name) => name !== browser.a && name !== browser.b).sort((first, second) => without(first) - without(second) || worth(second) - worth(first));
  const order = [...new Set([browser.a, browser.b, ...rest])];
  const parts = found.items.flatMap((item) => {
    const known = new Set(item.references.flatMap((text) => words(text).filter(([, wordlike]) => wordlike).map(([word]) => same(word))));
    const heading = item.aspect ? [element("h4", { dir: "auto" }, item.aspect)] : [];
    const references = item.references.map((text, nth) => element("section", { class: "reference" }, element("h4", {}, item.references.length > 1 ? `Reference ${nth + 1}` : "Reference"), element("p", { dir: "auto" }, text)));
    const summaries = order.map((name) => {
      const text = item.summaries[textRow(name)], own = documentScore(name, place);
      if (text === null || text === undefined) return null;
      const made = marked(text, known), role = name === browser.a ? "A" : name === browser.b ? "B" : "";
      return element("section", { class: role ? "summary chosen" : "summary" },
        element("h4", {}, role ? element("span", { class: "role" }, role) : "", element("span", { dir: "auto" }, name),
          element("span", { class: "scores" }, `${metric.label} ${own === null ? DASH : fixed(own, digits)}, ${made.shared} of ${made.all} words shared`)),
        text.trim() ? element("p", { dir: "auto" }, ...made.parts) : element("p", { class: "note" }, "(empty)"));
    });
    return [...heading, ...references, ...summaries.filter(Boolean)];
  });
  byId("document").replaceChildren(
    element("h3", { dir: "auto" }, found.id),
    element("p", { class: "key" }, "Underlined words stand in the reference, too. ", element("a", { href: link(found.id) }, "Link to this document")),
    element("details", {}, element("summary", {}, "Document"), element("p", { class: "text", dir: "auto" }, found.document)), ...parts);
}

const link = (id) => `#${new URLSearchParams({ document: id, a: browser.a, b: browser.b, metric: state.metric, ...(data.results.length > 1 ? { result: state.result.name } : {}) })}`;

function openDocument(id, focus) {
  browser.id = id;
  history.replaceState(null, "", link(id));
  renderDocument();
  const anchor = byId("list").querySelector("a[aria-current]");
  if (anchor) anchor.scrollIntoView({ block: "nearest" });
  if (focus) byId("document").focus({ preventScroll: true });
}

function moveDocument(step) {
  const place = browser.list.findIndex((one) => one.document.id === browser.id);
  const next = browser.list[Math.min(browser.list.length - 1, Math.max(0, place + step))];
  if (next) openDocument(next.document.id);
}

// What a link says: the document, the two methods and the metric; what this page does not hold is left out.
function followHash(jump) {
  const said = new URLSearchParams(location.hash.slice(1)), place = data.results.findIndex((result) => result.name === said.get("result"));
  if (place >= 0 && data.results[place] !== state.result) { byId("result-choice").querySelector("select").value = String(place); show(data.results[place]); }
  if (!said.has("document") || !texts().documents || !texts().documents.some((document) => document.id === said.get("document"))) return;
  for (const key of ["a", "b"]) if (texts().rows.includes(said.get(key))) browser[key] = said.get(key);
  browser.id = said.get("document");
  if (metricOf(said.get("metric")) && said.get("metric") !== state.metric) { state.metric = said.get("metric"); showScores(); renderCosts(); }
  if (!browser.list.some((one) => one.document.id === browser.id)) Object.assign(browser, { query: "", from: "", to: "" });
  renderDocuments();
  if (jump) { byId("document").scrollIntoView({ block: "start" }); byId("document").focus({ preventScroll: true }); }
}

const KEYS = [["j", "next document"], ["k", "previous document"], ["↓ ↑", "the same, while the list has the focus"], ["/", "search"], ["Esc", "leave the search"], ["?", "this list"]];
const WHERE = "They act while the focus is among the documents: click into a list or a text, or move there by Tab.";

function watchKeys() {
  fill("where", WHERE);
  fill("keys", ...KEYS.flatMap(([key, what]) => [element("dt", {}, element("kbd", {}, key)), element("dd", {}, what)]));
  addEventListener("hashchange", () => followHash(true));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open || !texts().documents) return;
    const typing = event.target.matches("input, select, textarea"), listed = byId("list").contains(event.target);
    if (event.key === "Escape" && event.target.id === "search") { event.target.blur(); byId("list").focus(); return; }
    if (typing || !byId("documents").contains(event.target)) return; // keys of one letter act where the focus is (WCAG 2.1.4)
    const act = { j: () => moveDocument(1), k: () => moveDocument(-1), "/": () => byId("search").focus(), "?": () => byId("help").showModal() }[event.key]
      || (listed && { ArrowDown: () => moveDocument(1), ArrowUp: () => moveDocument(-1) }[event.key]);
    if (act) { event.preventDefault(); act(); }
  });
}
