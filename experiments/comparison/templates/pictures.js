"use strict";
// Filters the cards of the pictures that tell runs apart by two of the runs. Without this all cards are shown.
(() => {
  const form = document.getElementById("picture-filter");
  if (!form) return;
  const counts = JSON.parse(form.dataset.counts); // over all pictures, not the cards alone
  const cards = [...document.getElementById("picture-cards").children];
  const choice = document.getElementById("picture-choice");
  const sides = [0, 1].map((side) => document.getElementById(`picture-run-${side}`));
  const more = document.getElementById("picture-more");
  const PAGE = matchMedia("(max-width: 560px)").matches ? 8 : 24; // cards that are added at a time
  const tags = [...document.querySelectorAll("#pictures .runs dt")].map((node) => node.textContent);

  const isRight = (card, run) => card.dataset.right.split(" ").includes(String(run));
  const pred = (card, run) => card.dataset.preds.split(" ")[run];

  // By the value of each choice: its name, how many of all pictures it holds, whether it holds a card.
  const choices = (a, b) => ({
    "": ["every card", cards.length, () => true],
    missed: ["missed by all runs", counts.missed, (card) => "missed" in card.dataset],
    first: [`${tags[a]} right, ${tags[b]} wrong`, counts.only[a][b], (card) => isRight(card, a) && !isRight(card, b)],
    second: [`${tags[b]} right, ${tags[a]} wrong`, counts.only[b][a], (card) => isRight(card, b) && !isRight(card, a)],
    differ: [`${tags[a]} and ${tags[b]} answer differently`, counts.differ[a][b], (card) => pred(card, a) !== pred(card, b)],
  });

  let limit = PAGE;

  const update = () => {
    const runs = sides.map((select) => Number(select.value));
    const all = choices(...runs);
    for (const option of choice.options) {
      const [name, count] = all[option.value];
      option.textContent = `${name}: ${count.toLocaleString("en")}`;
    }
    const [name, count, holds] = all[choice.value];
    const held = cards.filter(holds);
    const shown = new Set(held.slice(0, limit));
    for (const card of cards) {
      card.hidden = !shown.has(card);
      [...card.querySelectorAll(".answers > li")].forEach((row, run) => {
        row.classList.toggle("chosen", !["", "missed"].includes(choice.value) && runs.includes(run));
      });
    }
    more.hidden = held.length <= limit;
    more.textContent = `Show more of ${held.length}`;
    const of = `of ${counts.total.toLocaleString("en")} pictures`;
    document.getElementById("picture-count").textContent = choice.value === ""
      ? `${count} ${of} are here`
      : `${name}: ${count.toLocaleString("en")} ${of}; ${held.length} are here`;
  };

  more.addEventListener("click", () => {
    limit += PAGE;
    update();
  });
  for (const select of [...sides, choice]) {
    select.addEventListener("change", () => {
      limit = PAGE;
      update();
    });
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
})();
