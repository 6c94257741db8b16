// Draws every chart of the page in the page's own colours, again when the reader switches light, dark and paper.
"use strict";
(() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const look = (layout) => {
    const axis = { gridcolor: css("--rule"), zerolinecolor: css("--rule"), linecolor: css("--rule"), automargin: true };
    const themed = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: layout.title ? layout.margin : { l: 56, r: 24, t: 32, b: 56, ...layout.margin },
      font: { ...layout.font, color: css("--text"), family: "system-ui, sans-serif" },
    };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) themed[key] = { ...axis, ...layout[key] };
    }
    const shapes = (layout.shapes || []).map((shape) => ({ ...shape, line: { color: css("--quiet"), ...shape.line } }));
    return { ...layout, shapes, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis }, ...themed };
  };
  const settings = { responsive: true, displaylogo: false, showSendToCloud: false, showEditInChartStudio: false };
  const draw = () => {
    for (const holder of document.querySelectorAll("script[data-chart]")) {
      const { data, layout = {} } = JSON.parse(holder.textContent);
      const { template, ...own } = layout;
      Plotly.react(holder.dataset.chart, data, look({ ...own, autosize: true }), settings);
    }
  };
  draw();
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", draw);
})();
