// What every section shares: the data, the state of the page, and elements whose text can only be text.

const data = JSON.parse(document.getElementById("data").textContent);
if (globalThis.bakeoffTexts) {
  data.results.forEach((result, place) => Object.assign(result, globalThis.bakeoffTexts[place]));
}

const DASH = "–";
const state = {
  result: data.results[data.results.length - 1],
  metric: "",
  marked: "", // the method whose ties are marked
};

const byId = (id) => document.getElementById(id);
const own = (object, key) => (object && Object.hasOwn(object, key) ? object[key] : undefined);
const methods = () => state.result.rows.filter((row) => !row.control);
const metricOf = (key) => state.result.metrics.find((metric) => metric.key === key);
const score = (row, key) => own(row.scores, key);

// element("p", {class: "note"}, "text", element("b", {}, "more")): a child that is no element becomes a text node.
function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== ""));
  return made;
}

const FOCUSABLE = "input, select, button, a, summary";

// What had the focus has it afterwards, too: the same place among what can have it.
function fill(id, ...children) {
  const room = byId(id), place = [...room.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  room.replaceChildren(...children.filter(Boolean));
  const next = place >= 0 && room.querySelectorAll(FOCUSABLE)[place];
  if (next) next.focus({ preventScroll: true });
}

// So many decimals, never "-0.0".
const fixed = (value, digits) => (Number(value.toFixed(digits)) || 0).toFixed(digits);

// A labelled <select>; options are [value, label] pairs.
function choice(label, options, value, changed) {
  const select = element("select", { change: () => changed(select.value) });
  for (const [key, text] of options) {
    select.append(element("option", { value: key, selected: key === value }, text));
  }
  return element("label", { class: "choice" }, element("span", {}, label), select);
}

// One of a few, as buttons that are all seen.
function radios(label, options, value, changed) {
  const group = element("fieldset", { class: "radios" }, element("legend", {}, label));
  for (const [key, text] of options) {
    const input = element("input", { type: "radio", name: label, value: key, checked: key === value, change: () => changed(key) });
    group.append(element("label", {}, input, element("span", {}, text)));
  }
  return group;
}

const by = (figure) => (first, second) => figure(first) - figure(second);

// "a, b and c"
function listing(words) {
  return words.length > 1 ? `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}` : words.join("");
}
