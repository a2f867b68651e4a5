// Draws the charts of a page from what the gateway has kept, and keeps them
// up to date. Everything it shows that comes from outside is set as text.
import "uplot/dist/uPlot.min.css";
import "./charts.css";
import { Chart, sync } from "./chart.js";
import { Data } from "./data.js";
import { Range } from "./range.js";
import { Runs } from "./runs.js";
import { Chosen } from "./chosen.js";
import { Summary } from "./summary.js";

const section = document.getElementById("charts");
if (section && section.dataset.source) start(section);

function start(section) {
  const places = new Map([...section.querySelectorAll("figure")].map((f) => [f.id.slice("chart-".length), f]));
  const data = new Data(section.dataset.source);
  const chosen = new Chosen(() => load());
  const range = new Range(section, () => load());
  const summary = new Summary(section);
  const charts = new Map();
  const project = section.dataset.project;
  const runs = project ? new Runs(section, project, {
    changed: () => { for (const c of charts.values()) c.redraw(); },
    zoom: (from, to) => range.zoom(from, to),
  }) : null;
  const marked = () => ({ marks: runs?.marks() ?? [], spans: runs?.spans() ?? [] });
  for (const [id, figure] of places) {
    charts.set(id, new Chart(figure, { zoom: (from, to) => range.zoom(from, to), back: () => range.live(), marked }));
  }

  const show = () => {
    for (const panel of data.panels) charts.get(panel.id)?.show(data, panel, chosen);
    summary.show(data);
  };

  // One request is under way at a time; what is asked for meanwhile comes after.
  let busy = false, again = false, timer = 0, whole = true, refused = false;
  // Nothing more comes of a fixed time once it is there, or is refused.
  const settled = () => range.fixed() && (!whole || refused);
  const load = () => {
    whole = true;
    refused = false;
    next();
  };
  const next = async () => {
    clearTimeout(timer);
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    const all = whole || data.old();
    whole = false;
    try {
      if (all) await data.load(range.query(), chosen.names());
      else await data.more();
      section.removeAttribute("data-problem");
      show();
    } catch (problem) {
      whole = whole || all;
      refused = Boolean(problem.ours);
      section.dataset.problem = String(problem.message || problem);
    }
    busy = false;
    section.dataset.drawn = String(Number(section.dataset.drawn || 0) + 1);
    if (again) {
      again = false;
      next();
    } else if (!settled() && !document.hidden) {
      timer = setTimeout(next, Math.min(Math.max(data.step, 1), 10) * 1000);
    }
  };
  document.addEventListener("visibilitychange", () => document.hidden || settled() || next());
  // Canvases have no style sheet: they are drawn anew in other colours.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => {
    for (const c of charts.values()) c.clear();
    show();
  });
  sync();
  load();
}
