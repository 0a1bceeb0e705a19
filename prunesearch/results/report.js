"use strict";
// All names and texts come from the data block and go into the page as text, never as markup.
const { front, trials, pictures, texts, python, schedules, commands } = JSON.parse(document.getElementById("data").textContent);
const points = front.points;
const base = front.unpruned;
// a latency that was not measured is never called so: points carry nulls there, and say where the number comes from
const isMeasured = base.latency.median_ms !== null;
const how = isMeasured ? "measured" : front.cost_table.status === "estimated"
  ? `estimated ±${(100 * front.cost_table.mape).toPrecision(2)} %` : front.cost_table.source;
const latency = (item) => (isMeasured ? item.latency.median_ms : item.latency.predicted_ms);
const low = (item) => (isMeasured ? item.latency.p10_ms : item.latency.predicted_ms * (1 - front.cost_table.mape));
const high = (item) => (isMeasured ? item.latency.p90_ms : item.latency.predicted_ms * (1 + front.cost_table.mape));
const budgetMs = front.budget && front.budget.unit === "ms" ? front.budget.limit : null;
const narrow = matchMedia("(max-width: 30rem)");
let chosen = front.verdict.point || (points.length ? points[Math.floor((points.length - 1) / 2)].id : null);

const $ = (id) => document.getElementById(id);
const pointOf = (id) => points.find((p) => p.id === id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const percent = (x, places = 1) => (100 * x).toFixed(places);
const ms = (x) => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));
const signed = (x) => {
  const text = percent(Math.abs(x), 2);
  return Number(text) === 0 ? text : (x < 0 ? "−" : "+") + text;
};
const breakable = (name) => name.replaceAll("_", "_\u200b"); // long names may wrap on a phone
const gmacs = (x) => (x >= 0.1 ? x.toFixed(2) : x.toFixed(3));
const range = (i) => `${percent(i.low)} to ${percent(i.high)} %`;
const spread = (item) => `${ms(low(item))} to ${ms(high(item))} ms`;
const joules = (item) => {
  const e = item.energy;
  return e.measured ? `${e.measured.value.toPrecision(3)} mJ (${e.measured.low.toPrecision(3)} to ${e.measured.high.toPrecision(3)})` : `${e.predicted_mj.toPrecision(3)} mJ predicted`;
};
const metric = front.task.metric;
// Plotly reads a little markup in its texts.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function el(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function layout(extra) {
  const axis = { gridcolor: css("--grid"), linecolor: css("--line"), zeroline: false, automargin: true, title: { standoff: 12 } };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", showlegend: false,
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow.matches ? 12 : 13, color: css("--muted") },
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--text") }, align: "left" },
    margin: { l: 8, r: 12, t: 28, b: 8 }, dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    ...extra,
    xaxis: { ...axis, ...extra.xaxis, title: { ...axis.title, ...(extra.xaxis || {}).title } },
    yaxis: { ...axis, ...extra.yaxis, title: { ...axis.title, ...(extra.yaxis || {}).title } },
  };
}

const draw = (id, traces, extra) =>
  Plotly.react($(id), traces, layout(extra), { responsive: true, displaylogo: false, displayModeBar: false });

const bars = (values, lows, highs, color) => ({
  type: "data", symmetric: false, color, thickness: 1.2, width: 3,
  array: values.map((v, i) => highs[i] - v), arrayminus: values.map((v, i) => v - lows[i]),
});

function measured(items, name, marker, hover, extra = {}) {
  const x = items.map(latency);
  const y = items.map((p) => 100 * p.quality.value);
  return {
    type: "scatter", mode: "markers+text", name, x, y, marker, hovertext: hover, hoverinfo: "text", cliponaxis: false,
    error_x: bars(x, items.map(low), items.map(high), css("--faint")),
    error_y: bars(y, items.map((p) => 100 * p.quality.low), items.map((p) => 100 * p.quality.high), css("--faint")),
    textposition: "top left", textfont: { color: css("--text") }, ...extra,
  };
}

const hoverPoint = (p) =>
  `<b>${plain(p.id)}</b>  ${p.speedup.toFixed(2)}× faster<br>${ms(latency(p))} ms ${plain(how)} (${spread(p)})<br>` +
  `${ms(p.latency.predicted_ms)} ms predicted<br>${plain(metric)} ${percent(p.quality.value)} % (${range(p.quality)})<br>` +
  `change ${signed(p.difference.value)} points<br>${plain(schedules[p.id]).replaceAll(" &gt; ", "<br>")}`;

// Bad trials would squeeze the front into a corner: the first view frames what is on it.
function frame() {
  const all = [base, ...points];
  const pad = (low, high) => [low - 0.1 * (high - low || 1), high + 0.1 * (high - low || 1)];
  const limit = budgetMs === null ? [] : [budgetMs];
  return {
    x: pad(Math.min(...all.map(low), ...limit), Math.max(...all.map(high), ...limit)),
    y: pad(Math.min(...all.map((p) => 100 * p.quality.low)), Math.max(...all.map((p) => 100 * p.quality.high))),
  };
}

// Labels are readable for a dozen points; of more, only the ones that matter get theirs.
const label = (p) => (points.length <= 12 || [chosen, front.verdict.point].includes(p.id) ? plain(p.id) : "");

function drawFront() {
  const accent = css("--accent");
  const tried = trials.filter((t) => t.quality !== null && t.quality !== undefined);
  const traces = [
    {
      type: "scatter", mode: "markers", x: tried.map((t) => t.predicted_ms), y: tried.map((t) => 100 * t.quality), hoverinfo: "text",
      marker: { color: css("--faint"), size: 5, opacity: 0.45 },
      hovertext: tried.map((t) => `trial ${t.number}<br>${ms(t.predicted_ms)} ms predicted<br>${plain(metric)} ${percent(t.quality)} % on calibration` +
        (typeof t.kl === "number" ? `<br>KL ${t.kl.toPrecision(3)}` : "")),
    },
    measured([base], "unpruned", { color: css("--card"), size: 11, symbol: "diamond", line: { color: css("--text"), width: 2 } },
      [`<b>unpruned</b><br>${ms(latency(base))} ms (${spread(base)})<br>${plain(metric)} ${percent(base.quality.value)} % (${range(base.quality)})`],
      { text: ["unpruned"], textposition: "bottom left" }),
    measured(points, "front", {
      color: points.map((p) => (p.id === chosen ? accent : css("--card"))), size: points.map((p) => (p.id === chosen ? 15 : 10)),
      line: { color: accent, width: 2 },
    }, points.map(hoverPoint), { customdata: points.map((p) => p.id), text: points.map(label) }),
  ];
  const view = frame();
  const shapes = [], annotations = [];
  if (budgetMs !== null) {
    const x = budgetMs;
    shapes.push({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: css("--warm"), width: 1.5, dash: "dot" } });
    annotations.push({ x, y: 1, yref: "paper", yanchor: "bottom", showarrow: false, font: { color: css("--warm") },
      text: plain(front.budget.text.endsWith("ms") ? `budget ${front.budget.text}` : `budget ${front.budget.text} = ${ms(x)} ms`) });
  }
  draw("front-plot", traces, {
    uirevision: "front", shapes, annotations,
    xaxis: { title: { text: `latency of a batch of ${front.conditions.batch_size}, ms${isMeasured ? "" : `, ${plain(how)}`}` }, range: view.x },
    yaxis: { title: { text: `${plain(metric)}, %` }, range: view.y },
  });
  $("plot-hint").textContent = tried.length ? "Grey: trials, by predicted latency and calibration split; drag to zoom, double-click for all." : "";
}

function drawTokens() {
  const point = pointOf(chosen);
  const blocks = base.tokens.map((_, i) => i);
  const stages = point ? Object.fromEntries(point.schedule.stages.map((s) => [s.layer, s])) : {};
  const counts = point ? point.tokens : base.tokens;
  const digits = blocks.length * String(Math.max(...base.tokens)).length; // numbers that do not fit are left to the hover
  const hover = (i) => `block ${i}: ${counts[i]} of ${base.tokens[i]} tokens` + (stages[i] ? `<br>${plain(stages[i].merge)} by ${plain(stages[i].scorer)}` : "");
  draw("tokens-plot", [
    { type: "bar", x: blocks, y: base.tokens, marker: { color: css("--grid") }, hoverinfo: "skip" },
    {
      type: "bar", x: blocks, y: counts, hovertext: blocks.map(hover), hoverinfo: "text", text: digits <= (narrow.matches ? 26 : 56) ? counts : null, textposition: "auto", textangle: 0,
      constraintext: "none", insidetextfont: { color: blocks.map((i) => css(stages[i] ? "--page" : "--text")) }, cliponaxis: false,
      marker: { color: blocks.map((i) => (stages[i] ? css("--accent") : css("--faint"))) },
    },
  ], {
    barmode: "overlay", bargap: 0.15, dragmode: false, margin: { l: 8, r: 12, t: 16, b: 8 },
    xaxis: { title: { text: "block (coloured: a stage reduces here)" }, showgrid: false, fixedrange: true, tickmode: "linear", dtick: blocks.length > 16 ? 4 : 1 },
    yaxis: { title: { text: "tokens" }, fixedrange: true, rangemode: "tozero" },
  });
}

function drawPredicted() {
  $("predicted-plot").hidden = !isMeasured; // nothing to compare with
  if (!isMeasured) return;
  const all = [base, ...points];
  const x = all.map((p) => p.latency.predicted_ms);
  const y = all.map(latency);
  const least = 0.94 * Math.min(...x, ...y), most = 1.06 * Math.max(...x, ...y);
  draw("predicted-plot", [
    { type: "scatter", mode: "lines", x: [least, most], y: [least, most], line: { color: css("--faint"), dash: "dot", width: 1.5 }, hoverinfo: "skip" },
    {
      type: "scatter", mode: "markers", x, y, hoverinfo: "text", marker: { color: css("--accent"), size: 9 },
      error_y: bars(y, all.map(low), all.map(high), css("--faint")),
      hovertext: all.map((p, i) => `<b>${plain(p.id || "unpruned")}</b><br>${ms(x[i])} ms predicted<br>${ms(y[i])} ms ${how} (${signed(y[i] / x[i] - 1)} %)`),
    },
  ], {
    xaxis: { title: { text: "predicted, ms" } },
    yaxis: { title: { text: `${how} median, ms` } },
  });
}

function code(text, label, className = "") {
  const pre = el("pre", { textContent: text, tabIndex: 0, className });
  const button = el("button", { type: "button", textContent: "copy" });
  button.setAttribute("aria-label", `copy ${label}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(pre); // no clipboard for local files in this browser: leave it selected
      button.textContent = "selected";
    }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
  return el("div", { className: "code" }, pre, button);
}

function fact(list, name, value, under) {
  const dd = el("dd", {}, el("strong", { textContent: value }));
  if (under) dd.append(el("span", { textContent: under }));
  list.append(el("div", {}, el("dt", { textContent: name }), dd));
}

function row(cells, tag = "td") {
  return el("tr", {}, ...cells.map(([text, number]) => el(tag, { textContent: text, className: number ? "number" : "" })));
}

function showDetails() {
  const point = pointOf(chosen);
  const box = $("details");
  if (!point) return box.replaceChildren(el("p", { className: "muted", textContent: "No schedule is on the front: keep the model as it is." }));
  const facts = el("dl", { className: "facts" });
  fact(facts, `speed-up, ${how}`, `${point.speedup.toFixed(2)}×`, `${gmacs(point.gmacs)} of ${gmacs(base.gmacs)} GMACs`);
  fact(facts, isMeasured ? "latency, median" : `latency, ${how}`, `${ms(latency(point))} ms`,
    isMeasured ? `p10–p90: ${spread(point)}; predicted ${ms(point.latency.predicted_ms)} ms` : `${spread(point)}; not re-measured`);
  if (point.energy) fact(facts, "energy of one input", joules(point), `unpruned: ${joules(base)}`);
  fact(facts, `${metric}, holdout`, `${percent(point.quality.value)} %`, range(point.quality));
  fact(facts, "change, paired", `${signed(point.difference.value)} points`, `${signed(point.difference.low)} to ${signed(point.difference.high)}`);
  fact(facts, "same answer as unpruned", `${percent(point.fidelity.agreement)} %`, "of the holdout rows");
  fact(facts, "KL from unpruned", point.fidelity.kl.toPrecision(2), `calibration: ${percent(point.calibration.quality)} % ${metric}`);
  const stages = el("table", {}, el("thead", {}, row([["block", 1], ["kept", 1], ["tokens", 1], ["scorer"], ["merge"]], "th")),
    el("tbody", {}, ...point.schedule.stages.map((s) =>
      row([[s.layer, 1], [`${percent(s.keep, 0)} %`, 1], [point.tokens[s.layer], 1], [breakable(s.scorer)], [s.merge]]))));
  box.replaceChildren(facts, el("h3", { textContent: "Stages" }), el("div", { className: "scroll" }, stages),
    el("h3", { textContent: "Use it" }), code(python[point.id], "Python lines"),
    el("h3", { textContent: "Export it" }), code(commands[point.id], "command", "wrap"));
}

function showTable() {
  const head = row([["point"], ["speed-up", 1], [`latency, ms${isMeasured ? "" : `, ${how}`}`, 1], [isMeasured ? "p10–p90" : "range", 1], [`${metric}, %`, 1], ["95 %", 1], ["change", 1], ["GMACs", 1], ["schedule"]], "th");
  const cells = (p) => [[ms(latency(p)), 1], [`${ms(low(p))}–${ms(high(p))}`, 1],
    [percent(p.quality.value), 1], [`${percent(p.quality.low)}–${percent(p.quality.high)}`, 1]];
  const body = el("tbody", {}, row([["unpruned"], ["1.00×", 1], ...cells(base), ["", 1], [gmacs(base.gmacs), 1], [""]]));
  for (const p of points) {
    const line = row([[""], [`${p.speedup.toFixed(2)}×`, 1], ...cells(p), [signed(p.difference.value), 1], [gmacs(p.gmacs), 1], [schedules[p.id]]]);
    const button = el("button", { type: "button", textContent: p.id });
    button.setAttribute("aria-pressed", String(p.id === chosen));
    button.addEventListener("click", () => choose(p.id));
    line.firstChild.append(button, p.id === front.verdict.point ? "verdict" : "");
    line.className = p.id === chosen ? "chosen" : "";
    body.append(line);
  }
  const refocus = document.activeElement && document.activeElement.closest("#table");
  $("table").replaceChildren(el("thead", {}, head), body);
  if (refocus) { const pressed = $("table").querySelector('[aria-pressed="true"]'); if (pressed) pressed.focus(); }
}

function showSamples(section, list, samples, render) {
  $(section).hidden = samples.length === 0;
  const mine = samples.filter((s) => s.point === chosen);
  const others = [...new Set(samples.map((s) => s.point))].join(", ");
  $(list).replaceChildren(...(mine.length ? mine.map(render)
    : [el("p", { className: "muted", textContent: `None were drawn for ${chosen}; there are some for ${others}.` })]));
}

const picture = (sample) => el("div", {}, el("h3", { textContent: sample.title }), el("div", { className: "strip", tabIndex: 0 },
  ...sample.stages.map((s) => el("figure", {},
    el("img", { src: s.png.startsWith("data:image/") ? s.png : "", alt: `${sample.title}, ${s.caption}` }), el("figcaption", { textContent: s.caption })))));

function words(spans) {
  const nodes = [];
  for (const span of spans) {
    const joined = span.text.startsWith("##");
    const shown = joined ? span.text.slice(2) : span.text.replace(/^[Ġ▁]/, "");
    const node = el("span", { className: `token ${span.state}`, textContent: shown, title: span.state });
    if (span.group !== null) node.style.setProperty("--hue", (span.group * 137.5) % 360);
    if (!joined && nodes.length) nodes.push(" ");
    nodes.push(node);
  }
  return nodes;
}

const textSample = (sample) => el("div", {}, el("h3", { textContent: sample.title }),
  ...sample.stages.map((s) => el("p", { className: "stage-text" }, el("span", { className: "muted", textContent: s.caption }), ...words(s.spans))));

function choose(id) {
  chosen = id;
  $("choice").value = id;
  render();
}

function render() {
  drawFront();
  drawTokens();
  showDetails();
  showTable();
  showSamples("pictures", "picture-list", pictures, picture);
  showSamples("texts", "text-list", texts, textSample);
}

function showConditions() {
  const c = front.conditions, d = front.device, t = front.cost_table, s = front.search;
  const extra = Object.entries(d).filter(([k, v]) => !["name", "kind", "threads"].includes(k) && v !== null).map(([k, v]) => `${k} ${v}`).join(", ");
  $("status").textContent = isMeasured ? t.status : how;
  if (t.status === "estimated") $("status").classList.add("estimated");
  const threads = c.threads ? `, ${c.threads} threads` : "";
  $("where").textContent = `${front.model.id} on ${d.name} (${d.kind}${threads}), batch ${c.batch_size}, ${c.dtype}, ${c.attention}, ${c.tokens} tokens`;
  $("table-error").textContent = `Cost table ${t.status} (${t.source}): mean error ${percent(t.mape)} %, worst ${percent(t.worst)} %, rank correlation ${t.rank_correlation.toFixed(3)}, against ${t.against} (${t.schedules}).` + (t.noisy && t.noise !== null ? ` The machine was noisy (${percent(t.noise, 0)} %).` : "");
  const rows = [
    ["model", `${front.model.id} (${front.model.class}, ${front.model.depth} blocks, ${front.model.tokens} tokens, ${front.model.protected} protected)`],
    ["task", `${front.task.name}: ${metric} on ${front.task.holdout} holdout rows; the search saw ${front.task.calibration} calibration rows`],
    ["data", front.task.notes.join("; ")],
    ["device", `${d.name} (${d.kind}${threads}); ${extra}`],
    ["latency", `batch ${c.batch_size}, ${c.dtype}, ${c.attention} attention, ${c.mode} mode, ${c.tokens} tokens`],
    ["cost table", `${t.status}, ${t.source}, ${t.cells} cells in ${t.seconds.toFixed(0)} s${t.noise === null ? "" : `, noise ${percent(t.noise)} %`}${t.noisy ? " (noisy machine)" : ""}`],
    ["fitted to this model", t.notes.join("; ")],
    ["budget", front.budget ? `${front.budget.text} = ${ms(front.budget.limit)} ${front.budget.unit}` : "none"],
    ["search", `${s.sampler}, ${s.trials} trials (${s.seeds} seeds, ${s.failed} failed), ${Number(s.evaluations.toFixed(1))} model evaluations, ${s.seconds.toFixed(0)} s`],
    ["front", `${points.length} points; ${front.dropped} dropped as dominated once ${isMeasured ? "measured end to end" : "judged on held-out data"}`],
    ["made", `${front.created} by prunesearch ${front.prunesearch}`],
  ];
  for (const [name, value] of rows) if (value) $("conditions").append(el("dt", { textContent: name }), el("dd", { textContent: value }));
  $("config").textContent = JSON.stringify(front.config, null, 2);
}

for (const p of points) {
  const verdict = p.id === front.verdict.point ? ", verdict" : "";
  $("choice").append(el("option", { value: p.id, textContent: `${p.id}: ${p.speedup.toFixed(2)}×, ${percent(p.quality.value)} % ${metric}${verdict}` }));
}
$("choice").hidden = points.length === 0;
$("choice").value = chosen;
$("choice").addEventListener("change", (event) => choose(event.target.value));
showConditions();
render();
drawPredicted();
$("front-plot").on("plotly_click", (event) => { const id = event.points[0].customdata; if (id) choose(id); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { render(); drawPredicted(); });
