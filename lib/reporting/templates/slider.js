const budgets = document.getElementById("budgets"), slider = budgets.querySelector("input");
const show = () => {
  budgets.querySelectorAll(".said").forEach((said, i) => { said.hidden = i !== +slider.value; });
  slider.setAttribute("aria-valuetext", budgets.querySelector(".said:not([hidden]) b").textContent);
};
slider.addEventListener("input", show);
budgets.hidden = false;
show();
