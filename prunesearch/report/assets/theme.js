"use strict";
// Shared by the dashboard and the report: colours for the figures, copy buttons.
(() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const narrow = matchMedia("(max-width: 30rem)");
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // A string "--name" in a figure is a variable of the style sheet.
  function coloured(value) {
    if (typeof value === "string") return /^--[a-z0-9-]+$/.test(value) ? css(value) : value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, coloured(inner)]));
    }
    return value;
  }

  function themed(figure) {
    if (!figure) return { data: [], layout: {} };
    const { data, layout } = coloured(figure);
    const axis = { gridcolor: css("--grid"), linecolor: css("--line"), zeroline: false, zerolinecolor: css("--faint"), automargin: true };
    const withAxis = (own = {}) => ({ ...axis, ...own, title: { standoff: 12, ...own.title } });
    return {
      data,
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", showlegend: false, autosize: true,
        font: { family: getComputedStyle(document.body).fontFamily, size: narrow.matches ? 12 : 13, color: css("--muted") },
        hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--text") }, align: "left" },
        dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
        ...layout,
        margin: { l: 8, r: 12, t: 28, b: 8, ...layout.margin },
        xaxis: withAxis(layout.xaxis), yaxis: withAxis(layout.yaxis),
      },
    };
  }

  async function copy(button) {
    const pre = button.parentElement.querySelector("pre");
    try {
      await navigator.clipboard.writeText(pre.textContent);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(pre); // no clipboard for local files in this browser: leave it selected
      button.textContent = "selected";
    }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("button.copy");
    if (button) copy(button);
  });

  window.prunesearch = { themed, dark };
})();
