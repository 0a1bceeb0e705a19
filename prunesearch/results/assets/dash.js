"use strict";
// The dashboard's own callbacks in the browser. Dash loads theme.js after this file, so it is looked up when it is needed.
window.dash_clientside = Object.assign({}, window.dash_clientside, {
  prunesearch: {
    themed: (figure) => window.prunesearch.themed(figure),
    hidden: (figure) => (figure ? {} : { display: "none" }),
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
