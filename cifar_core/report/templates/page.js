"use strict";
// Plain script of a page with tables: sorts and filters them, follows what charts choose, loads a growing page again.
(() => {
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text; // never innerHTML: names are data
    return node;
  };

  const touched = new Set(); // what the reader has changed: until it is undone, the page is not loaded again
  const boxes = [...document.querySelectorAll("input[data-filters]")];
  let chosen = null; // ids, or null for all

  // ---- sort ---------------------------------------------------------------------------------------------------
  const keyOf = (cell) => {
    const raw = (cell.dataset.sort ?? cell.textContent).trim().replace(/^(-?)inf$/, "$1Infinity");
    if (raw === "" || raw === "nan") return null;
    return Number.isNaN(Number(raw)) ? raw : Number(raw);
  };

  const order = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };

  const sort = (table, header) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, key: keyOf(row.cells[header.cellIndex]) }));
    const isKnown = ({ key }) => key !== null;
    const known = rows.filter(isKnown).sort((a, b) => (down ? order(b.key, a.key) : order(a.key, b.key)));
    const unknown = rows.filter((one) => !isKnown(one));
    body.append(...[...known, ...unknown].map(({ row }) => row));
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
  const notes = new Map(); // table: the line that says how many rows are left

  const update = (table) => {
    const typed = boxes.filter((box) => box.dataset.filters === table.id).map((box) => box.value).join(" ");
    const names = [...table.tHead.rows[0].cells].map((header) => header.textContent.trim().toLowerCase());
    const rows = [...table.tBodies[0].rows].map((row) => {
      const cells = [...row.cells].map((cell) => cell.textContent.trim().toLowerCase());
      const pairs = cells.map((cell, column) => `${names[column]}=${cell}`);
      return { row, text: cells.join(" "), words: [...cells.join(" ").split(/\s+/), ...pairs] };
    });
    // lr=0.1 is not lr=0.15, but lr=0. is the beginning of both.
    const tests = typed.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
      if (!word.includes("=")) return ({ text }) => text.includes(word);
      const isWhole = rows.some(({ words }) => words.includes(word));
      return ({ words }) => words.some((one) => (isWhole ? one === word : one.startsWith(word)));
    });
    for (const { row, ...texts } of rows) {
      const isOut = chosen !== null && "id" in row.dataset && !chosen.has(row.dataset.id);
      row.hidden = isOut || !tests.every((test) => test(texts));
    }
    say(table, rows.filter(({ row }) => !row.hidden).length, rows.length);
  };

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

  const showAll = (table, from) => {
    for (const box of boxes.filter((one) => one.dataset.filters === table.id)) {
      box.value = "";
      box.focus(); // the button goes
      touched.delete(box);
    }
    update(table);
    if (chosen !== null) document.dispatchEvent(new CustomEvent("choose", { detail: { ids: null, from } }));
  };

  for (const box of boxes) {
    box.addEventListener("input", () => update(document.getElementById(box.dataset.filters)));
    box.form?.addEventListener("submit", (event) => event.preventDefault());
  }

  document.addEventListener("choose", ({ detail }) => {
    chosen = detail.ids;
    new Set([...document.querySelectorAll("tr[data-id]")].map((row) => row.closest("table"))).forEach(update);
  });

  // ---- load again -------------------------------------------------------------------------------------------------
  document.addEventListener("input", ({ target }) => {
    if (target.value === "") touched.delete(target);
    else touched.add(target);
  });
  document.addEventListener("reset", ({ target }) => [...target.elements].forEach((field) => touched.delete(field)));
  const isBusy = () => document.hidden || chosen !== null || touched.size > 0 || document.querySelector("dialog[open]");
  const seconds = Number(document.documentElement.dataset.reload ?? 0);
  if (seconds) setInterval(() => { if (!isBusy()) location.reload(); }, 1000 * seconds);

  document.querySelectorAll(".script").forEach((node) => { node.hidden = false; });
})();
