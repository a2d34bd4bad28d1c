// Sorts a table by the column whose heading is pressed: up, down, as it was. Without it the page says the same.
"use strict";
(function () {
  function key(cell) {
    const text = cell.textContent.trim();
    const plain = text.replace(/[\u202f\u00a0](?=\d)/g, "").replace(/\u2212/g, "-").replace(/^[<>\u2264\u2265] ?/, "");
    const number = /^\[?[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/i.exec(plain);
    return number ? parseFloat(number[0].replace("[", "")) : text.toLowerCase();
  }
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // numbers first, then what was not measured
    return a.localeCompare(b, undefined, { numeric: true });
  }
  const orders = ["none", "ascending", "descending"];
  document.querySelectorAll("table").forEach(function (table) {
    const body = table.tBodies[0];
    const rows = body ? Array.from(body.rows) : [];
    // A row that goes on with the one above it has no name of its own: such a table keeps its order.
    if (rows.length < 3 || rows.some((row) => !row.cells[0].textContent.trim())) return;
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...Array.from(head.childNodes));
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", function () {
        const now = orders[(orders.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
        heads.forEach((each) => each.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", now);
        const sign = now === "descending" ? -1 : 1;
        const keyed = rows.map((row) => [key(row.cells[column]), row]);
        if (now !== "none") keyed.sort((a, b) => sign * compare(a[0], b[0]));
        body.append(...keyed.map((pair) => pair[1]));
      });
    });
  });
})();
