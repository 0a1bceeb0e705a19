"use strict";
// The dashboard's own callbacks in the browser. Dash loads theme.js after this file, so it is looked up when it is needed.
const MOST_MS = 5000; // that anything waits for the front

// Plotly draws on the one thread that there is: what is seen first is drawn first, and what is below it waits.
async function afterFront() {
  const end = performance.now() + MOST_MS;
  const front = document.querySelector(".plot.tall");
  while (front && !front.querySelector(".main-svg") && performance.now() < end) await new Promise(requestAnimationFrame);
  return true;
}

window.dash_clientside = Object.assign({}, window.dash_clientside, {
  prunesearch: {
    afterFront,
    // the figure in the colours of the page, and whether there is one to be seen
    themed: async (figure) => {
      const [output] = window.dash_clientside.callback_context.outputs_list;
      if (output.id.name !== "front") await afterFront();
      return [window.prunesearch.themed(figure), figure ? {} : { display: "none" }];
    },
    // a click on a point is a walk to its address, so that the back button and a bookmark work
    walk: () => {
      const [{ value: click }] = window.dash_clientside.callback_context.triggered;
      const data = click && click.points && click.points.length ? click.points[0].customdata : null;
      if (!data) return window.dash_clientside.no_update;
      return `/study/${encodeURIComponent(data[0])}?point=${encodeURIComponent(data[1])}`;
    },
  },
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
  window.dash_clientside.set_props("scheme", { data: event.matches ? "dark" : "light" });
});
