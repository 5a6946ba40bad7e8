"use strict";
// Plain script of a report: fills the gallery of errors, filters and sorts it. Needs no network and no storage.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const el = (id) => document.getElementById(id);
  const { classes, pictures, sprite } = data;
  const PAGE = matchMedia("(max-width: 560px)").matches ? 12 : 48; // cards that are added at a time
  const TILE = 128; // side of a drawn tile, canvas pixels
  const GAP = 8;

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text; // never innerHTML: names are data
    return node;
  };
  const percent = (p) => (p === null ? "not finite" : `${(100 * p).toFixed(1)}\u00a0%`);
  const confidence = (i) => pictures.probs[i][0];
  const title = (i) => `${classes[pictures.true[i]]} taken for ${classes[pictures.predicted[i]]}`;

  // ---- maps: bytes of the grids, enlarged bilinearly and coloured here ------------------------------------
  const bytes = Uint8Array.from(atob(data.maps), (c) => c.charCodeAt(0));
  const [gridH, gridW] = data.grid;
  const W = sprite.width, H = sprite.height;
  const image = new Image();

  const gridOf = (i, target) => {
    const start = (i * data.targets.length + target) * gridH * gridW;
    return bytes.subarray(start, start + gridH * gridW);
  };

  const enlarge = (grid) => {
    // Cell centres, not corners, are aligned: the same as torch's align_corners=False.
    const out = new Float32Array(W * H);
    for (let y = 0; y < H; y++) {
      const gy = Math.min(Math.max((y + 0.5) * gridH / H - 0.5, 0), gridH - 1);
      const y0 = Math.floor(gy), y1 = Math.min(y0 + 1, gridH - 1), fy = gy - y0;
      for (let x = 0; x < W; x++) {
        const gx = Math.min(Math.max((x + 0.5) * gridW / W - 0.5, 0), gridW - 1);
        const x0 = Math.floor(gx), x1 = Math.min(x0 + 1, gridW - 1), fx = gx - x0;
        const top = grid[y0 * gridW + x0] * (1 - fx) + grid[y0 * gridW + x1] * fx;
        const low = grid[y1 * gridW + x0] * (1 - fx) + grid[y1 * gridW + x1] * fx;
        out[y * W + x] = top * (1 - fy) + low * fy;
      }
    }
    return out;
  };

  const colored = (heat, strongest) => {
    const canvas = make("canvas");
    canvas.width = W;
    canvas.height = H;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(W, H);
    const last = data.colors.length - 1;
    heat.forEach((value, place) => {
      const v = strongest ? Math.min(value / strongest, 1) : 0;
      const k = Math.min(Math.floor(v * last), last - 1), part = v * last - k;
      for (let c = 0; c < 3; c++) {
        pixels.data[4 * place + c] = data.colors[k][c] * (1 - part) + data.colors[k + 1][c] * part;
      }
      pixels.data[4 * place + 3] = 255 * (0.25 + 0.5 * v);
    });
    context.putImageData(pixels, 0, 0);
    return canvas;
  };

  const draw = (canvas, i, targets) => {
    const tileH = Math.round(TILE * H / W);
    canvas.width = (targets.length + 1) * (TILE + GAP) - GAP;
    canvas.height = tileH;
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    const from = [(i % sprite.columns) * W, Math.floor(i / sprite.columns) * H, W, H];
    const maps = data.targets.map((_, target) => enlarge(gridOf(i, target)));
    // One scale for a picture: the strongest evidence for the predicted or the true class.
    const strongest = Math.max(...[maps[0], maps[1]].map((map) => map.reduce((a, b) => Math.max(a, b), 0)));
    context.drawImage(image, ...from, 0, 0, TILE, tileH);
    targets.forEach((target, place) => {
      const x = (place + 1) * (TILE + GAP);
      context.filter = "saturate(50%)";
      context.drawImage(image, ...from, x, 0, TILE, tileH);
      context.filter = "none";
      context.drawImage(colored(maps[target], strongest), x, 0, TILE, tileH);
      context.lineWidth = 5;
      context.strokeStyle = ["#c44900", "#0067a5", "#767f8a", "#767f8a"][target];
      context.strokeRect(x + 2.5, 2.5, TILE - 5, tileH - 5);
    });
  };

  // ---- cards ------------------------------------------------------------------------------------------------
  const bars = (i) => {
    const list = make("dl", "probs");
    const rows = pictures.top[i].map((k, place) => [k, pictures.probs[i][place]]);
    if (!pictures.top[i].includes(pictures.true[i])) rows.push([pictures.true[i], pictures.p_true[i]]);
    for (const [k, p] of rows) {
      const kind = k === pictures.true[i] ? "is-true" : k === pictures.predicted[i] ? "is-pred" : "";
      const name = make("dt", kind, classes[k]);
      name.title = classes[k];
      const track = make("dd", "track");
      const bar = make("i", kind);
      bar.style.width = `${100 * (p ?? 0)}%`;
      track.append(bar);
      list.append(name, track, make("dd", "number", percent(p)));
    }
    return list;
  };

  const caption = (i) => {
    const line = make("p", "card-title");
    line.append(
      make("span", "is-true", classes[pictures.true[i]]), " \u2192 ",
      make("span", "is-pred", classes[pictures.predicted[i]]),
    );
    const detail = make("p", "detail", `index ${pictures.index[i]}`);
    if (pictures.file) detail.append(` \u00b7 ${pictures.file[i]}`);
    detail.append(` \u00b7 label quality ${pictures.quality[i] === null ? "not finite" : pictures.quality[i].toFixed(2)} `);
    if (pictures.suggested[i] >= 0) {
      detail.append(make("span", "flag", `label error? ${classes[pictures.suggested[i]]}`));
    }
    return [line, bars(i), detail];
  };

  const picture = (i, targets) => {
    const canvas = make("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute(
      "aria-label",
      `${title(i)}, ${percent(confidence(i))}; then the maps of: ${targets.map((t) => data.target_names[t]).join(", ")}`,
    );
    draw(canvas, i, targets);
    return canvas;
  };

  const card = (i, place) => {
    const item = make("li");
    const open = make("button", "open");
    open.type = "button";
    open.title = "Enlarge";
    open.append(picture(i, [0, Number(el("second").value)]));
    open.addEventListener("click", () => enlargeCard(place));
    item.append(open, ...caption(i));
    return item;
  };

  // ---- filter and sort --------------------------------------------------------------------------------------
  let chosen = []; // pictures that pass the filters, in order
  let drawn = 0;

  const last = (value, otherwise) => (value === null ? otherwise : value); // not finite sorts last
  const ORDERS = {
    confidence: (a, b) => last(confidence(b), -1) - last(confidence(a), -1),
    unsure: (a, b) => last(confidence(a), 2) - last(confidence(b), 2),
    loss: (a, b) => last(pictures.loss[b], -1) - last(pictures.loss[a], -1),
    quality: (a, b) => last(pictures.quality[a], 2) - last(pictures.quality[b], 2),
    index: (a, b) => pictures.index[a] - pictures.index[b],
  };

  const more = () => {
    const until = Math.min(drawn + PAGE, chosen.length);
    for (; drawn < until; drawn++) el("gallery").append(card(chosen[drawn], drawn));
    el("more").hidden = drawn === chosen.length;
  };

  const errorsOf = (wanted) => cells.map((cell) => cell.dataset)
    .filter(({ t, p }) => t !== p && ["", t].includes(wanted.true) && ["", p].includes(wanted.predicted))
    .reduce((sum, { n }) => sum + Number(n), 0);

  const update = () => {
    const wanted = { true: el("true").value, predicted: el("predicted").value };
    const least = Number(el("least").value);
    el("least-shown").value = `${Math.round(100 * least)}\u00a0%`;
    chosen = pictures.index.map((_, i) => i).filter((i) =>
      (wanted.true === "" || pictures.true[i] === Number(wanted.true))
      && (wanted.predicted === "" || pictures.predicted[i] === Number(wanted.predicted))
      && (least === 0 || confidence(i) >= least)
      && (!el("suspected").checked || pictures.suggested[i] >= 0));
    chosen.sort(ORDERS[el("sort").value]);
    el("gallery").replaceChildren();
    drawn = 0;
    more();
    // The confusion matrix knows how many errors there are in all, but only by their classes.
    const byClass = least === 0 && !el("suspected").checked;
    const total = byClass ? errorsOf(wanted) : pictures.index.length;
    const [some, all] = [chosen.length, total].map((n) => n.toLocaleString("en"));
    el("count").textContent = `${some === all ? "All" : `${some} of`} ${all} errors${byClass ? "" : " in this page"}`;
    for (const cell of cells) {
      cell.setAttribute("aria-pressed", String(cell.dataset.t === wanted.true && cell.dataset.p === wanted.predicted));
    }
  };

  // ---- enlarged card ------------------------------------------------------------------------------------------
  let shown = 0; // place in `chosen`

  const enlargeCard = (place) => {
    shown = (place + chosen.length) % chosen.length;
    const i = chosen[shown];
    const all = data.targets.map((_, target) => target);
    const names = make("p", "detail", `picture, then the maps of: ${data.target_names.join(", ")}`);
    el("large-card").replaceChildren(picture(i, all), names, ...caption(i));
    if (!el("large").open) el("large").showModal();
  };

  const step = (by) => enlargeCard(shown + by);
  el("previous").addEventListener("click", () => step(-1));
  el("next").addEventListener("click", () => step(1));
  el("close").addEventListener("click", () => el("large").close());
  el("large").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  // ---- confusion matrix ---------------------------------------------------------------------------------------
  const matrix = document.querySelector(".confusion");
  // Of many classes only the colours are drawn; the cells to choose from are laid over them here.
  const [left, top, side] = matrix.dataset.box.split(" ").map(Number);
  for (const [t, p, n] of data.cells) {
    const cell = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const box = { x: left + p * side, y: top + t * side, width: side, height: side, class: "cell", "fill-opacity": 0 };
    Object.entries(box).forEach(([name, value]) => cell.setAttribute(name, value));
    Object.assign(cell.dataset, { t, p, n });
    matrix.append(cell);
  }
  const cells = [...matrix.querySelectorAll(".cell")];
  const at = new Map(cells.map((cell) => [`${cell.dataset.t},${cell.dataset.p}`, cell]));

  const describe = (cell) => {
    const { t, p, n } = cell.dataset;
    const what = t === p ? `${classes[t]}, recognised` : `${classes[t]} taken for ${classes[p]}`;
    return `${what}: ${Number(n).toLocaleString("en")}`;
  };

  const choose = (cell) => {
    const { t, p } = cell.dataset;
    const again = cell.getAttribute("aria-pressed") === "true";
    el("true").value = again ? "" : t;
    el("predicted").value = again || t === p ? "" : p; // the diagonal has no errors: show all of its row
    update();
    el("errors").scrollIntoView({ block: "start" });
  };

  const focusCell = (cell) => {
    cells.forEach((other) => other.setAttribute("tabindex", other === cell ? "0" : "-1")); // one tab stop for all
    cell.focus();
  };

  // The next drawn cell in a direction; cells without pictures are not drawn.
  const neighbour = (cell, dt, dp) => {
    let t = Number(cell.dataset.t) + dt, p = Number(cell.dataset.p) + dp;
    for (; t >= 0 && p >= 0 && t < classes.length && p < classes.length; t += dt, p += dp) {
      if (at.has(`${t},${p}`)) return at.get(`${t},${p}`);
    }
    return cell;
  };
  const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  matrix.setAttribute("role", "group");
  cells.forEach((cell, place) => {
    cell.setAttribute("role", "button");
    cell.setAttribute("tabindex", place ? "-1" : "0");
    cell.setAttribute("aria-label", describe(cell));
  });
  const onCell = (type, act) => matrix.addEventListener(type, (event) => {
    const cell = event.target.closest(".cell");
    if (cell) act(cell, event);
  });
  onCell("click", choose);
  onCell("focusin", (cell) => { el("cell").textContent = describe(cell); });
  onCell("pointerover", (cell) => { el("cell").textContent = describe(cell); });
  onCell("keydown", (cell, event) => {
    if (event.key === "Enter" || event.key === " ") choose(cell);
    else if (event.key in ARROWS) focusCell(neighbour(cell, ...ARROWS[event.key]));
    else return;
    event.preventDefault();
  });

  // ---- start --------------------------------------------------------------------------------------------------
  const fill = (select, names, first) => {
    if (first) select.append(new Option(first, ""));
    names.forEach(([name, value]) => select.append(new Option(name, value)));
  };
  const present = (of) => [...new Set(of)].sort((a, b) => a - b).map((k) => [classes[k], k]);
  const start = () => {
    fill(el("true"), present(cells.map((cell) => Number(cell.dataset.t))), "all");
    fill(el("predicted"), present(cells.map((cell) => Number(cell.dataset.p))), "all");
    fill(el("second"), data.target_names.map((name, k) => [name, k]).slice(1));
    document.querySelectorAll(".script").forEach((node) => { node.hidden = false; });
    el("filters").addEventListener("change", update);
    el("least").addEventListener("input", update); // while the slider moves
    el("filters").addEventListener("submit", (event) => event.preventDefault());
    el("filters").addEventListener("reset", () => setTimeout(update)); // the event comes before the reset
    el("more").addEventListener("click", more);
    document.documentElement.dataset.ready = "";
    if (pictures.index.length) update();
  };
  if (sprite.uri) {
    image.onload = start;
    image.src = sprite.uri;
  } else {
    start();
  }
})();
