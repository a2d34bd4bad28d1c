// Sorts a table by the column whose heading is pressed: up, down, as it was; and lights up together what shows one
// variant or one attack, in tables and figures. Without it the page says the same.
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
(function () {
  const main = document.querySelector("main");
  const shown = new Map(); // of what -> every row, table and part of a figure that shows it
  main.querySelectorAll("[data-of]").forEach(function (part) {
    shown.set(part.dataset.of, (shown.get(part.dataset.of) || []).concat(part));
  });
  const rows = Array.from(main.querySelectorAll("tr[data-of]")).filter((row) => shown.get(row.dataset.of).length > 1);
  const drawings = Array.from(main.querySelectorAll("svg")).filter((one) => one.querySelector("[data-of]"));
  drawings.forEach(function (one) {
    one.classList.add("linked");
    one.classList.toggle("told", drawings.find((other) => other.closest("section") === one.closest("section")) === one);
  });
  let kept = []; // what was pressed stays lit while the reader goes on
  let lit = [];
  // A row of a table about a variant is of its own attack and of that variant.
  function of(part) {
    const found = [];
    for (let at = part.closest("[data-of]"); at; at = at.parentElement.closest("[data-of]")) found.push(at.dataset.of);
    return found;
  }
  function light(wanted) {
    lit.forEach((part) => part.classList.remove("on"));
    lit = wanted.flatMap((one) => shown.get(one));
    lit.forEach((part) => part.classList.add("on"));
    drawings.forEach((one) => one.classList.toggle("some", one.querySelector(".on") !== null));
  }
  function isKept(row) {
    return of(row).every((one) => kept.includes(one));
  }
  function keep(wanted) {
    kept = wanted;
    rows.forEach((row) => row.querySelector("[aria-pressed]").setAttribute("aria-pressed", isKept(row)));
    light(kept);
  }
  function press(part) {
    const wanted = of(part);
    keep(wanted.every((one) => kept.includes(one)) ? [] : wanted);
  }
  rows.forEach(function (row) {
    const name = document.createElement("span"); // its text can still be marked and copied, unlike a button's
    name.append(...Array.from(row.cells[0].childNodes));
    name.setAttribute("role", "button");
    name.setAttribute("aria-pressed", "false");
    row.cells[0].append(name);
    row.classList.add("linked");
  });
  // One stop of the Tab key a table; the arrows go from row to row.
  main.querySelectorAll("tbody").forEach(function (body) {
    body.querySelectorAll("[aria-pressed]").forEach((name, at) => (name.tabIndex = at ? -1 : 0));
  });
  main.addEventListener("pointerover", function (event) {
    if (event.pointerType === "touch") return;
    const wanted = of(event.target);
    light(wanted.length ? wanted : kept);
  });
  main.addEventListener("pointerleave", () => light(kept));
  main.addEventListener("focusin", (event) => light(event.target.ariaPressed ? of(event.target) : kept));
  main.addEventListener("focusout", () => light(kept));
  main.addEventListener("click", function (event) {
    const marked = String(getSelection());
    if (marked || event.target.closest("button, a, summary") || !of(event.target).length) return;
    press(event.target);
  });
  main.addEventListener("keydown", function (event) {
    const name = event.target;
    if (event.key === "Escape") keep([]);
    if (!name.ariaPressed) return;
    if (event.key === "Enter" || event.key === " ") press(name);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const names = Array.from(name.closest("tbody").querySelectorAll("[aria-pressed]"));
      const next = names[names.indexOf(name) + (event.key === "ArrowDown" ? 1 : -1)];
      if (next) {
        name.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      }
    } else return;
    event.preventDefault();
  });
})();
