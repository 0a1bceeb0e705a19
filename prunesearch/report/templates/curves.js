"use strict";
// All names come from the data block and go into the page as text, never as markup.
const { curves, panels, overview, colours } = JSON.parse(document.getElementById("data").textContent);
const narrow = matchMedia("(max-width: 30rem)");
const $ = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const ms = (x) => Number(x.toPrecision(4)).toString();

function el(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function themed(layout) {
  const axis = { gridcolor: css("--grid"), linecolor: css("--line"), zerolinecolor: css("--line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", showlegend: false,
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow.matches ? 12 : 13, color: css("--muted") },
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--text") }, align: "left" },
    margin: { l: 8, r: 12, t: 12, b: 8 }, dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  };
}

const draw = (node, figure) =>
  Plotly.react(node, figure.data, themed(figure.layout), { responsive: true, displaylogo: false, displayModeBar: false });

function key(kind, colour, text) {
  const mark = el("span", { className: `key ${kind}` });
  mark.style.color = colour;
  return el("li", {}, mark, el("span", { textContent: text }));
}

function legend(curve) {
  const estimated = curve.status === "estimated";
  const line = estimated ? "dashed" : "";
  const band = estimated ? ["hatched", "mean error of the estimate"] : ["band", "p10 to p90"];
  const items = [
    key(line, colours.block, "block"), key(line, colours.attention, "attention half"), key(line, colours.mlp, "MLP half"),
    key(band[0], colours.block, band[1]), key("point", colours.block, "count that matters"),
  ];
  if (curve.sized.length) items.splice(3, 0, key("dotted", colours.block, "block, with token sizes"));
  if (curve.plateaus.some((p) => p.first < p.last)) items.push(key("plateau", colours.all[3], "plateau"));
  return el("ul", { className: "legend" }, ...items);
}

function row(cells, tag) {
  return el("tr", {}, ...cells.map((text) => el(tag, { textContent: text, className: "number" })));
}

function table(curve) {
  const band = curve.status === "estimated" ? "within its error" : "p10 to p90";
  const body = curve.rows.map((r) =>
    row([r.matters ? `${r.tokens} ●` : r.tokens, ms(r.ms), `${ms(r.low)} to ${ms(r.high)}`, ms(r.attention), ms(r.mlp)], "td"));
  return el("details", {}, el("summary", { textContent: "The numbers, in ms" }), el("div", { className: "scroll" },
    el("table", {}, el("thead", {}, row(["tokens", "block", band, "attention", "MLP"], "th")), el("tbody", {}, ...body))));
}

function panel(curve, figure) {
  const plot = el("div", { className: "plot", role: "img" });
  plot.setAttribute("aria-label", "Latency of one block against tokens; the table below has the same numbers");
  const chip = el("span", { className: `chip ${curve.status === "estimated" ? "estimated" : ""}`, textContent: curve.trust });
  const edges = curve.rows.filter((r) => r.matters).map((r) => r.tokens);
  const matter = edges.length === curve.rows.length
    ? `No plateaus: all ${edges.length} counts matter.`
    : `${edges.length} of ${curve.rows.length} counts matter: ${edges.join(", ")}.`;
  const section = el("section", {}, el("h2", { textContent: curve.name }), el("p", { className: "muted small", textContent: curve.details.join("; ") }),
    el("p", { className: "small" }, chip), plot, legend(curve), el("p", { className: "small", textContent: matter }), table(curve));
  $("panels").append(section);
  return () => draw(plot, figure);
}

const redraw = curves.map((curve, i) => panel(curve, panels[i]));
if (overview) {
  $("overview").hidden = false;
  $("overview-legend").append(...curves.map((c, i) =>
    key(c.status === "estimated" ? "dashed" : "", colours.all[i % colours.all.length], [c.name, ...c.details, c.trust].join("; "))));
  redraw.push(() => draw($("overview-plot"), overview));
}
const render = () => redraw.forEach((one) => one());
render();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
