"use strict";
// Shows the values at the pointer below each chart.
for (const figure of document.querySelectorAll("figure")) {
  const svg = figure.querySelector("svg"), line = svg.querySelector(".at");
  const all = [...svg.querySelectorAll("[data-points]")].map((shape) => ({
    label: figure.querySelector(`[data-of="${shape.dataset.index}"]`),
    data: JSON.parse(shape.dataset.points),
  }));
  const [left, right, from, to] = ["left", "right", "from", "to"].map((name) => Number(svg.dataset[name]));
  const show = (x) => {
    for (const { label, data } of all) {
      const near = x === null ? null : data.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
      label.textContent = near ? ` ${near[1]} (step ${near[0]})` : "";
    }
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const part = Math.min(1, Math.max(0, (at - left) / (right - left)));
    line.setAttribute("x1", left + part * (right - left));
    line.setAttribute("x2", left + part * (right - left));
    line.removeAttribute("visibility");
    show(from + part * (to - from));
  });
  svg.addEventListener("pointerleave", () => {
    line.setAttribute("visibility", "hidden");
    show(null);
  });
}
