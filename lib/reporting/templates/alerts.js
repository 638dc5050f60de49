"use strict";
// The list is complete without this script; it only adds order and filters.
const form = document.querySelector("form.tools");
const body = document.querySelector(".alerts tbody");
const rows = [...body.rows];
const count = document.querySelector("#count");

function number(field, otherwise) {
  return field && field.value !== "" ? Number(field.value) : otherwise;
}

function apply() {
  const { reason, least, most, order } = form.elements;
  const from = number(least, -Infinity);
  const to = number(most, Infinity);
  let shown = 0;
  for (const row of rows) {
    const amount = row.dataset.amount === "" ? NaN : Number(row.dataset.amount);
    const asked = from !== -Infinity || to !== Infinity;
    const fits = !asked || (amount >= from && amount <= to);
    const named = reason.value === "" || row.dataset.reasons.split(" ").includes(reason.value);
    row.hidden = !(fits && named);
    shown += row.hidden ? 0 : 1;
  }
  const key = { rank: "rank", amount: "amount", time: "position" }[order.value];
  const sign = order.value === "amount" ? -1 : 1;
  rows.sort((a, b) => sign * (a.dataset[key] - b.dataset[key]) || a.dataset.rank - b.dataset.rank);
  body.append(...rows);
  count.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} shown`;
}

form.hidden = false;
form.addEventListener("input", apply);
form.addEventListener("reset", () => setTimeout(apply));
apply(); // a browser may have kept what was typed before
