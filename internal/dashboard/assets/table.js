// Sorts and filters the tables of a page. The choice is applied to what the
// gateway sends before it is shown, so that it lasts.
"use strict";

window.faninTables = (() => {
  const order = new Map(); // table's id -> {column, down}
  let wanted = "";

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (!cell) return "";
    if (cell.classList.contains("n")) return "v" in cell.dataset ? Number(cell.dataset.v) : NaN;
    return cell.textContent.trim();
  };
  // What is unknown comes last, whichever way.
  const compare = (a, b, down) => {
    if (typeof a === "number" && typeof b === "number") {
      if (Number.isNaN(a) || Number.isNaN(b)) return Number(Number.isNaN(a)) - Number(Number.isNaN(b));
      return down ? b - a : a - b;
    }
    const c = String(a).localeCompare(String(b), undefined, { numeric: true });
    return down ? -c : c;
  };

  const arrange = (page) => {
    const tables = page.querySelectorAll("table[id]");
    for (const table of tables) {
      const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
      for (const head of heads) {
        head.tabIndex = 0;
        head.classList.add("sorts");
      }
      const by = order.get(table.id);
      heads.forEach((head, i) => {
        if (by && by.column === i) head.setAttribute("aria-sort", by.down ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      const rows = [...body.rows];
      if (by) {
        const keys = new Map(rows.map((row) => [row, valueOf(row, by.column)]));
        rows.sort((a, b) => compare(keys.get(a), keys.get(b), by.down));
      } else {
        const places = new Map(rows.map((row) => [row, Number(row.dataset.place)]));
        rows.sort((a, b) => places.get(a) - places.get(b));
      }
      const moved = rows.some((row, i) => body.rows[i] !== row);
      if (moved) body.append(...rows);
      let shown = 0;
      for (const row of rows) {
        row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
        shown += Number(!row.hidden);
      }
      const found = document.getElementById("found");
      if (found) found.textContent = wanted === "" ? "" : `${shown} of ${rows.length}`;
    }
  };

  const sortBy = (head) => {
    const table = head.closest("table"), column = head.cellIndex, by = order.get(table.id);
    // Numbers are asked for the largest first; a third click undoes it.
    const first = head.classList.contains("n");
    if (!by || by.column !== column) order.set(table.id, { column, down: first });
    else if (by.down === first) order.set(table.id, { column, down: !first });
    else order.delete(table.id);
    arrange(document);
  };
  const pressed = (e) => {
    const head = e.target.closest("th.sorts");
    if (!head || e.type === "keydown" && e.key !== "Enter" && e.key !== " ") return;
    e.preventDefault();
    sortBy(head);
  };
  document.addEventListener("click", pressed);
  document.addEventListener("keydown", pressed);

  const find = document.getElementById("guests-find");
  if (find) {
    const label = document.createElement("label"), input = document.createElement("input"), found = document.createElement("output");
    label.textContent = "Find ";
    input.type = "search";
    input.placeholder = "name, address, state, type or host";
    input.setAttribute("aria-controls", "guests-table");
    found.id = "found";
    input.addEventListener("input", () => {
      wanted = input.value.trim().toLowerCase();
      arrange(document);
    });
    label.append(input);
    find.append(label, " ", found);
  }
  const number = (page) => {
    for (const table of page.querySelectorAll("table[id]")) [...table.tBodies[0].rows].forEach((row, i) => { row.dataset.place = String(i); });
  };
  number(document);
  arrange(document);
  return (page) => {
    number(page);
    arrange(page);
  };
})();
