// All names and texts come from the data block and go into the page as text, never as markup.
(() => {
  const { figures, pictures, chosen: first } = JSON.parse(document.getElementById("data").textContent);
  const panels = [...document.querySelectorAll("[data-panel]")];
  const links = [...document.querySelectorAll("a[data-point]")];
  const axis = document.getElementById("axis");
  const front = document.querySelector('[data-figure="front"]');
  const options = { responsive: true, displaylogo: false, displayModeBar: false };
  let chosen = null;

  const draw = (node) => {
    const name = node.dataset.figure;
    const figure = name === "front" && axis ? figures[`front ${axis.value}`] : figures[name];
    if (!figure) return;
    const themed = window.prunesearch.themed(figure);
    if (name === "front") {
      for (const trace of themed.data) {
        const place = (trace.customdata || []).findIndex((data) => data[1] === chosen);
        if (place >= 0 && Array.isArray(trace.marker.size)) trace.marker.size = trace.marker.size.map((_, i) => (i === place ? 15 : 10));
        if (place >= 0 && Array.isArray(trace.marker.color) && typeof trace.marker.color[0] === "string") {
          trace.marker.color = trace.marker.color.map((_, i) => (i === place ? trace.marker.line.color : window.prunesearch.themed({ data: ["--card"], layout: {} }).data[0]));
        }
      }
    }
    Plotly.react(node, themed.data, themed.layout, options);
  };
  // only what is seen: figures of hidden panels have no size yet
  const redraw = () => document.querySelectorAll("[data-figure]").forEach((node) => { if (!node.closest("[hidden]")) draw(node); });

  function choose(id) {
    chosen = id;
    for (const panel of panels) panel.hidden = panel.dataset.panel !== id;
    for (const link of links) {
      if (link.dataset.point === id) link.parentElement.setAttribute("aria-current", "true");
      else link.parentElement.removeAttribute("aria-current");
    }
    redraw();
  }

  for (const image of document.querySelectorAll("[data-picture]")) image.src = pictures[Number(image.dataset.picture)];
  for (const link of links) link.addEventListener("click", (event) => { event.preventDefault(); choose(link.dataset.point); });
  if (axis) axis.addEventListener("change", redraw);
  choose(panels.some((panel) => `#${panel.dataset.panel}` === decodeURIComponent(location.hash)) ? decodeURIComponent(location.hash.slice(1)) : first);
  if (front) front.on("plotly_click", (event) => { const data = event.points[0].customdata; if (data) choose(data[1]); });
  window.prunesearch.dark.addEventListener("change", redraw);
})();
