// Tables that sort by any column; controls stay below the methods, and what has no value stays below what has one.

// columns: [{label, numeric, descending}], rows: [{cells: [{text, value, strong, title}], control}].
function sortableTable(caption, columns, rows, sorted) {
  const body = element("tbody");
  const heads = columns.map((column, place) => {
    const button = element("button", { type: "button", click: () => sort(place) }, column.label, element("span", { class: "arrow", "aria-hidden": "true" }));
    return element("th", { scope: "col", class: column.numeric ? "number" : undefined, "aria-sort": "none" }, button);
  });
  let current = { place: -1, descending: false };

  function sort(place, descending) {
    const turn = current.place === place ? !current.descending : Boolean(columns[place].descending);
    current = { place, descending: descending === undefined ? turn : descending };
    heads.forEach((head, other) => {
      const active = other === place;
      head.setAttribute("aria-sort", active ? (current.descending ? "descending" : "ascending") : "none");
      head.querySelector(".arrow").textContent = active ? (current.descending ? " ▼" : " ▲") : "";
    });
    const sign = current.descending ? -1 : 1;
    const order = rows.slice().sort((first, second) => {
      if (Boolean(first.control) !== Boolean(second.control)) return first.control ? 1 : -1;
      const [a, b] = [first.cells[place].value, second.cells[place].value];
      if (a === null || b === null || a === undefined || b === undefined) return (a == null) - (b == null);
      return sign * (typeof a === "number" ? a - b : String(a).localeCompare(String(b)));
    });
    body.replaceChildren(...order.map((row) => element("tr", { class: row.control ? "control" : undefined }, ...row.cells.map((cell, at) =>
      element(at ? "td" : "th", { scope: at ? undefined : "row", class: columns[at].numeric ? "number" : String(cell.text).length > 24 ? "long" : undefined, dir: at ? undefined : "auto" },
        cell.strong ? element("strong", {}, cell.text) : cell.text,
        cell.more ? element("span", { class: "span" }, ` ${cell.more}`) : "",
        cell.letters ? element("span", { class: "letters", title: "letters of the tests" }, ` ${cell.letters}`) : "")))));
  }

  const table = element("table", {}, element("caption", {}, caption), element("thead", {}, element("tr", {}, ...heads)), body);
  if (sorted) sort(sorted.place, sorted.descending);
  else sort(0, false);
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, table);
}
