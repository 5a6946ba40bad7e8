"use strict";
// Plain script of a page with charts: says what the pointer or the keys are at, lifts it wherever it is drawn or listed,
// and lets one brush the axes of slices and parallel coordinates. What is chosen so is told by the event `choose`.
(() => {
  const NEAR = 40; // pixels from the pointer, up to which a line is meant
  const STILL = 4; // pixels that a click may move
  const STEPS = 20; // of the arrow keys on an axis of numbers
  const INVITATION = "Drag along an axis to choose runs; a click takes the range away.";

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text; // never innerHTML: names are data
    return node;
  };
  const number = (value) => String(Number(value.toPrecision(4)));
  const quantity = (value, share) => (share ? `${number(100 * value)}\u00a0%` : number(value));
  const pairs = (path) => {
    const numbers = path.replaceAll("h0", "").match(/-?[\d.]+/g).map(Number);
    return Array.from({ length: numbers.length / 2 }, (_, k) => [numbers[2 * k], numbers[2 * k + 1]]);
  };

  // ---- what is drawn ------------------------------------------------------------------------------------------
  const charts = [...document.querySelectorAll("svg.curves, svg.slice, svg.parallel")];
  const shapes = new Map(); // svg: its lines or points, with their places in its units

  const points = (svg, path) => {
    const parts = path.getAttribute("d").split("M").slice(1).map(pairs);
    if (!path.transform.baseVal.length) return parts.map((part) => part.map(([x, y]) => ({ x, y })));
    // The numbers of curves are steps in epochs and values.
    const { a, d, e, f } = path.transform.baseVal.consolidate().matrix;
    const [[x0, dx], [y0, dy]] = [svg.dataset.x, svg.dataset.y].map((pair) => pair.split(" ").map(Number));
    return parts.map((steps) => {
      let [u, v] = [0, 0];
      return steps.map(([du, dv]) => {
        [u, v] = [u + du, v + dv];
        return { x: a * u + e, y: d * v + f, epoch: x0 + dx * u, value: y0 + dy * v };
      }).slice(1); // the first step leads nowhere
    });
  };

  const shape = (svg, node) => {
    const name = node.querySelector("title").textContent;
    const path = node.querySelector(".line");
    const parts = path ? points(svg, path) : [[{ x: Number(node.getAttribute("cx")), y: Number(node.getAttribute("cy")) }]];
    return { node, name, parts, id: node.dataset.id };
  };

  const shapesOf = (svg) => {
    if (!shapes.has(svg)) {
      const nodes = [...svg.querySelectorAll("[data-id]")];
      shapes.set(svg, nodes.map((node) => shape(svg, node)));
      for (const node of nodes) node.querySelector("title").remove(); // or the browser shows it too
    }
    return shapes.get(svg);
  };

  const between = (a, b, x) => (a.x === b.x ? a.y : a.y + (b.y - a.y) * (x - a.x) / (b.x - a.x));

  // The distance of a line from a place, and its point that is next to it.
  const reach = (part, x, y) => {
    const next = part.reduce((best, point) => (Math.abs(point.x - x) < Math.abs(best.x - x) ? point : best));
    const after = part.findIndex((point) => point.x >= x);
    if (part.length === 1 || after <= 0) return { distance: Math.hypot(next.x - x, next.y - y), point: next };
    return { distance: Math.abs(between(part[after - 1], part[after], x) - y), point: next };
  };

  const nearest = (svg, x, y) => {
    let best = null;
    for (const one of shapesOf(svg)) {
      if (one.node.classList.contains("faded")) continue;
      for (const part of one.parts) {
        const found = reach(part, x, y);
        if (!best || found.distance < best.distance) best = { ...found, shape: one };
      }
    }
    return best;
  };

  const place = (svg, event) => {
    const box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    return { x: (event.clientX - box.left) / scale, y: (event.clientY - box.top) / scale, scale };
  };

  // ---- lift -----------------------------------------------------------------------------------------------------
  const tip = make("p", "tip");
  tip.setAttribute("role", "status");
  let lifted = null;

  const lift = (id) => {
    if (id === null) tip.hidden = true;
    if (id === lifted) return;
    lifted = id;
    for (const node of document.querySelectorAll(".lifted")) node.classList.remove("lifted");
    document.documentElement.classList.toggle("lifting", id !== null);
    if (id === null) return;
    for (const node of document.querySelectorAll(`[data-id="${CSS.escape(id)}"]`)) node.classList.add("lifted");
  };

  const say = (svg, { shape: one, point }) => {
    lift(one.id);
    const figure = svg.closest("figure");
    const reading = "epoch" in point
      ? ` epoch ${number(point.epoch)}: ${quantity(point.value, "share" in svg.dataset)}`
      : "";
    tip.replaceChildren(make(reading ? "b" : "span", "", one.name), reading);
    tip.hidden = false;
    if (tip.parentNode !== figure) figure.append(tip);
    const [box, outer] = [svg.getBoundingClientRect(), figure.getBoundingClientRect()];
    const scale = box.width / svg.viewBox.baseVal.width;
    const [x, y] = [box.left - outer.left + point.x * scale, box.top - outer.top + point.y * scale];
    const left = Math.min(Math.max(x - tip.offsetWidth / 2, 0), outer.width - tip.offsetWidth);
    tip.style.left = `${Math.max(left, 0)}px`;
    tip.style.top = `${y - tip.offsetHeight - 14}px`;
  };

  const hover = (svg, event) => {
    const { x, y, scale } = place(svg, event);
    const found = nearest(svg, x, y);
    if (found && found.distance * scale <= NEAR) say(svg, found);
    else lift(null);
    return found !== null && found.distance * scale <= NEAR;
  };

  document.addEventListener("pointerover", ({ target }) => {
    if (target.closest("svg.chart")) return;
    lift(target.closest("tr[data-id], li[data-id]")?.dataset.id ?? null);
  });
  document.addEventListener("focusin", ({ target }) => {
    const row = target.closest("tr[data-id]");
    if (row) lift(row.dataset.id);
  });

  // ---- keys on curves: left and right along a line, up and down to the next one ------------------------------------
  const walk = (svg, now, key) => {
    const along = now.shape.parts.flat();
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (step) return { ...now, point: along[along.indexOf(now.point) + step] ?? now.point };
    const up = key === "ArrowUp" ? 1 : -1;
    const others = shapesOf(svg).filter((one) => !one.node.classList.contains("faded")).flatMap((one) => {
      const point = one.parts.flat().find(({ epoch }) => epoch === now.point.epoch);
      return point ? [{ shape: one, point }] : [];
    });
    others.sort((a, b) => up * (a.point.value - b.point.value));
    return others[others.findIndex((one) => one.shape === now.shape) + 1] ?? now;
  };

  for (const svg of charts.filter((one) => one.matches(".curves"))) {
    let now = null;
    svg.setAttribute("role", "group");
    svg.setAttribute("tabindex", "0");
    svg.setAttribute("aria-description", "Arrow keys go along a line and to the next one.");
    svg.addEventListener("keydown", (event) => {
      if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key)) return;
      event.preventDefault();
      if (now) now = walk(svg, now, event.key);
      else {
        const all = shapesOf(svg);
        const first = all.find(({ node }) => node.classList.contains("best")) ?? all[0];
        now = { shape: first, point: first.parts.flat().at(-1) };
      }
      say(svg, now);
    });
    svg.addEventListener("blur", () => lift(null));
  }

  // ---- brushes: a range of [0, 1] for a key, in all charts that have it -----------------------------------------------
  const ranges = new Map();
  const brushes = [...document.querySelectorAll(".brush")].map((node) => {
    const { key, along, span, places, choices } = node.dataset;
    const range = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    range.setAttribute("class", "brushed");
    node.querySelector(".hit").after(range);
    return {
      node, key, along, range,
      span: span.split(" ").map(Number),
      places: places.split(" ").map((one) => (one === "-" ? NaN : Number(one))),
      choices: choices && JSON.parse(choices),
      ids: JSON.parse(node.closest("svg").dataset.ids),
    };
  });
  const noted = new Map(); // figures with brushes: the line that says what is chosen
  for (const { node } of brushes) {
    const figure = node.closest(".slices") ?? node.closest("figure");
    if (!noted.has(figure)) {
      noted.set(figure, make("p", "hint choosing", INVITATION));
      figure.before(noted.get(figure));
    }
  }

  const told = ({ node, key, choices }, [low, high]) => {
    if (choices) {
      const names = choices.filter((_, k) => (k + 0.5) / choices.length > low && (k + 0.5) / choices.length < high);
      return `${key} ${names.join(" or ")}`;
    }
    if (!node.dataset.ends) return key;
    const [least, most] = node.dataset.ends.split(" ").map(Number);
    const log = "log" in node.dataset;
    const at = (p) => (log ? least * (most / least) ** p : least + p * (most - least));
    return `${key} ${quantity(at(low), "share" in node.dataset)} to ${quantity(at(high), "share" in node.dataset)}`;
  };

  const snapped = ({ choices }, [low, high]) => {
    if (!choices) return [low, high];
    const n = choices.length;
    const first = Math.min(Math.floor(low * n + 1e-6), n - 1);
    return [first / n, Math.max(Math.ceil(high * n - 1e-6), first + 1) / n];
  };

  const chosen = () => {
    let ids = null;
    for (const [key, [low, high]] of ranges) {
      const { places, ids: all } = brushes.find((one) => one.key === key);
      const inside = all.filter((_, k) => places[k] >= low && places[k] <= high);
      ids = new Set(ids === null ? inside : inside.filter((id) => ids.has(id)));
    }
    return ids;
  };

  const drawRange = ({ node, key, along, range, span }) => {
    const hit = node.querySelector(".hit");
    for (const name of ["x", "y", "width", "height"]) range.setAttribute(name, hit.getAttribute(name));
    const on = ranges.get(key);
    range.setAttribute("visibility", on ? "visible" : "hidden");
    if (!on) return;
    const [a, b] = on.map((p) => span[0] + p * (span[1] - span[0]));
    range.setAttribute(along, Math.min(a, b));
    range.setAttribute(along === "x" ? "width" : "height", Math.max(Math.abs(b - a), 2));
  };

  const note = (ids, from) => {
    for (const [figure, line] of noted) {
      line.classList.toggle("chosen", ids !== null);
      if (ids === null) { line.textContent = INVITATION; continue; }
      line.setAttribute("aria-live", figure.contains(from) ? "polite" : "off");
      const words = [...ranges].map(([key, range]) => told(brushes.find((one) => one.key === key), range));
      const all = new Set(brushes[0].ids).size;
      const button = make("button", "", "show all");
      button.type = "button";
      button.addEventListener("click", () => choose(null, button));
      line.replaceChildren(`${ids.size} of ${all} chosen: ${words.join(", ")} \u2013 `, button);
    }
  };

  let waiting = false; // a brush moves more often than tables can follow
  const choose = (brush, from, range) => {
    if (brush === null) ranges.clear();
    else if (range) ranges.set(brush.key, snapped(brush, range));
    else ranges.delete(brush.key);
    brushes.forEach(drawRange);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const ids = chosen();
      note(ids, from);
      document.dispatchEvent(new CustomEvent("choose", { detail: { ids, from } }));
    });
  };

  document.addEventListener("choose", ({ detail }) => {
    if (!brushes.some(({ node }) => node === detail.from)) { // chosen elsewhere
      ranges.clear();
      brushes.forEach(drawRange);
      note(null);
    }
    for (const node of document.querySelectorAll(".plot [data-id]")) {
      node.classList.toggle("faded", detail.ids !== null && !detail.ids.has(node.dataset.id));
    }
  });

  const along = (brush, svg, event) => {
    const [start, end] = brush.span;
    return Math.min(Math.max((place(svg, event)[brush.along] - start) / (end - start), 0), 1);
  };

  // ---- pointer ----------------------------------------------------------------------------------------------------
  for (const svg of charts) {
    let drag = null; // the brush, where it began, whether it has moved
    svg.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      const node = event.target.closest(".brush");
      const brush = brushes.find((one) => one.node === node);
      drag = { brush, from: brush && along(brush, svg, event), x: event.clientX, y: event.clientY, moved: false };
      if (brush) svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      if (!drag?.brush) { hover(svg, event); return; }
      drag.moved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > STILL;
      if (!drag.moved) return;
      lift(null);
      const ends = [drag.from, along(drag.brush, svg, event)].sort((a, b) => a - b);
      choose(drag.brush, drag.brush.node, ends);
    });
    svg.addEventListener("pointerup", (event) => {
      const { brush, moved } = drag ?? {};
      drag = null;
      if (moved) return;
      if (brush && ranges.has(brush.key)) choose(brush, brush.node, null); // a click on a range takes it away
      else if (!hover(svg, event) && ranges.size) choose(null, brushes[0].node); // on nothing, all
    });
    svg.addEventListener("pointercancel", () => { drag = null; });
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") lift(null); });
  }

  // ---- keys on brushes: arrows move the lower end, with Shift the upper one ------------------------------------------
  for (const brush of brushes) {
    const { node, key, choices } = brush;
    const step = 1 / (choices?.length ?? STEPS);
    node.closest("svg").setAttribute("role", "group");
    node.setAttribute("tabindex", "0");
    node.setAttribute("role", "group");
    node.setAttribute("aria-label", `Choose by ${key}: arrow keys move the lower end, with Shift the upper end; Delete takes it away`);
    node.addEventListener("keydown", (event) => {
      const by = { ArrowUp: step, ArrowRight: step, ArrowDown: -step, ArrowLeft: -step }[event.key];
      if (event.key === "Delete" || event.key === "Backspace") choose(brush, node, null);
      else if (by) {
        const [low, high] = ranges.get(key) ?? [0, 1];
        const range = event.shiftKey ? [low, Math.min(high + by, 1)] : [Math.max(low + by, 0), high];
        if (range[1] - range[0] > step / 2) choose(brush, node, range[0] <= 0 && range[1] >= 1 ? null : range);
      } else return;
      event.preventDefault();
    });
  }

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    lift(null);
    if (ranges.size) choose(null, brushes[0].node);
  });
})();
