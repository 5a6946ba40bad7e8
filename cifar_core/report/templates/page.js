"use strict";
// Plain script of a page with tables: sorts and filters them, follows what charts choose, loads a growing page again.
(() => {
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text; // never innerHTML: names are data
    return node;
  };

  // ---- sort ---------------------------------------------------------------------------------------------------
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    const raw = (cell.dataset.sort ?? cell.textContent).trim();
    const number = raw === "" ? NaN : Number(raw);
    return raw === "nan" || raw === "" ? null : Number.isNaN(number) ? raw : number;
  };

  const order = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };

  const sort = (table, header) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, key: keyOf(row, header.cellIndex) }));
    const [known, empty] = [rows.filter(({ key }) => key !== null), rows.filter(({ key }) => key === null)];
    known.sort((a, b) => (down ? order(b.key, a.key) : order(a.key, b.key)));
    body.append(...[...known, ...empty].map(({ row }) => row));
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    touched.add(table);
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const header of table.tHead.rows[0].cells) {
      const button = make("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sort(table, header));
      header.append(button);
      header.setAttribute("aria-sort", "none");
    }
  }

  // ---- filter, and what charts choose -----------------------------------------------------------------------------
  const touched = new Set(); // what the reader has changed: then the page is not loaded again
  let chosen = null; // ids, or null for all

  const wordsOf = (box) => box ? box.value.toLowerCase().split(/\s+/).filter(Boolean) : [];

  const update = (table) => {
    const box = boxes.find((one) => one.dataset.filters === table.id);
    const names = [...table.tHead.rows[0].cells].map((header) => header.textContent.trim());
    const rows = [...table.tBodies[0].rows].map((row) => {
      const cells = [...row.cells].map((cell) => cell.textContent.trim());
      const pairs = cells.map((cell, column) => `${names[column]}=${cell}`.toLowerCase());
      return { row, pairs, text: `${cells.join(" ")} ${pairs.join(" ")}`.toLowerCase() };
    });
    // lr=0.1 is not lr=0.15, but lr=0. is the beginning of both.
    const tests = wordsOf(box).map((word) => rows.some(({ pairs }) => pairs.includes(word))
      ? ({ pairs }) => pairs.includes(word)
      : ({ text }) => text.includes(word));
    let left = 0;
    for (const one of rows) {
      const out = chosen !== null && "id" in one.row.dataset && !chosen.has(one.row.dataset.id);
      one.row.hidden = out || !tests.every((test) => test(one));
      left += one.row.hidden ? 0 : 1;
    }
    say(table, left, rows.length);
  };

  const notes = new Map(); // table: the line that says how many rows are left

  const say = (table, left, all) => {
    if (!notes.has(table)) {
      const note = make("p", "live");
      note.setAttribute("aria-live", "polite");
      (table.closest(".scroll") ?? table).before(note);
      notes.set(table, note);
    }
    const note = notes.get(table);
    note.hidden = left === all && chosen === null;
    if (note.hidden) return note.replaceChildren();
    const button = make("button", "", "show all");
    button.type = "button";
    button.addEventListener("click", () => showAll(table, button));
    note.replaceChildren(`${left} of ${all} ${chosen === null ? "shown" : "chosen"} \u2013 `, button);
  };

  const showAll = (table, button) => {
    for (const box of boxes) {
      if (box.dataset.filters === table.id) box.value = "";
      touched.delete(box);
    }
    update(table);
    if (chosen !== null) document.dispatchEvent(new CustomEvent("choose", { detail: { ids: null, from: button } }));
  };

  const boxes = [...document.querySelectorAll("input[data-filters]")];
  for (const box of boxes) {
    const table = document.getElementById(box.dataset.filters);
    box.addEventListener("input", () => update(table));
    box.form?.addEventListener("submit", (event) => event.preventDefault());
  }

  document.addEventListener("choose", ({ detail }) => {
    chosen = detail.ids;
    for (const table of document.querySelectorAll("table")) {
      if (table.tHead && table.querySelector("tr[data-id]")) update(table);
    }
  });

  // ---- load again -------------------------------------------------------------------------------------------------
  document.addEventListener("input", ({ target }) => {
    if (target.value === "") touched.delete(target);
    else touched.add(target);
  });
  document.addEventListener("reset", () => touched.clear());
  const isBusy = () => document.hidden || chosen !== null || touched.size > 0 || document.querySelector("dialog[open]");
  const seconds = Number(document.documentElement.dataset.reload ?? 0);
  if (seconds) setInterval(() => { if (!isBusy()) location.reload(); }, 1000 * seconds);

  document.querySelectorAll(".script").forEach((node) => { node.hidden = false; });
})();
