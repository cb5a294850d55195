// Draws the figures of a report, in the colours of the reader's system; on paper they are light.
const dark = matchMedia("(prefers-color-scheme: dark)");
const paper = matchMedia("print");
const nodes = [...document.querySelectorAll("script.figure")];
const templates = JSON.parse(document.querySelector("script.templates").textContent);
const config = {displaylogo: false, responsive: true, toImageButtonOptions: {format: "svg"}};
let shown = null;

// A change is [path, value], or [path] alone where the light figure has something that the dark one has not.
function change(figure, [path, ...values]) {
  const last = path.at(-1);
  const inside = path.slice(0, -1).reduce((part, name) => part[name], figure);
  if (values.length) inside[last] = values[0]; else delete inside[last];
}

function draw(theme) {
  if (theme === shown) return;
  shown = theme;
  for (const node of nodes) {
    const figure = JSON.parse(node.textContent);
    if (theme === "dark") for (const one of figure.dark) change(figure, one);
    figure.layout.template = templates[theme];
    Plotly.newPlot(node.dataset.into, figure.data, figure.layout, config);
  }
}

const current = () => (dark.matches && !paper.matches ? "dark" : "light");
draw(current());
for (const media of [dark, paper]) media.addEventListener("change", () => draw(current()));
addEventListener("beforeprint", () => draw("light"));
addEventListener("afterprint", () => draw(current()));
