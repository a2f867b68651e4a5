// One chart: a canvas, and a table of its lines with the values under the
// pointer or, without one, the newest.
import uPlot from "uplot";
import { colourOf, themed } from "./colours.js";
import { clock, moment, steps, written } from "./written.js";
import { bands } from "./bands.js";
import { marks } from "./marks.js";

const height = 190;
const together = uPlot.sync("fanin");

// sync has the pointer on one chart show on all.
export const sync = () => together;

export class Chart {
  constructor(figure, on) {
    this.figure = figure;
    this.unit = figure.dataset.unit;
    this.on = on;
    this.plot = null;
    this.hidden = new Set(); // names of lines that the reader has put out
    this.note = document.createElement("p");
    this.note.className = "note left-out";
    this.seen = false;
    // What is not in view is not drawn.
    new IntersectionObserver((entries) => {
      this.seen = entries.at(-1).isIntersecting;
      if (this.seen && this.waiting) this.draw(...this.waiting);
    }, { rootMargin: "200px" }).observe(figure);
    new ResizeObserver(() => this.plot?.setSize({ width: this.width(), height })).observe(figure);
  }

  width() {
    return Math.max(200, Math.floor(this.figure.clientWidth));
  }

  show(...what) {
    this.waiting = what;
    if (this.seen) this.draw(...what);
  }

  redraw() {
    this.plot?.redraw(false);
  }

  clear() {
    this.plot?.destroy();
    this.plot = null;
  }

  draw(data, panel, chosen) {
    this.waiting = null;
    this.data = data;
    const names = panel.lines.map((l) => l.name);
    const shape = JSON.stringify([names, names.filter((n) => chosen.has(n))]);
    if (this.plot && this.shape !== shape) this.clear();
    this.shape = shape;
    const values = [data.times, ...panel.lines.map((l) => l.values)];
    if (this.plot) {
      this.plot.setData(values);
    } else {
      this.plot = new uPlot(this.options(names, chosen), values, this.figure);
      this.figure.append(this.note);
      this.figure.plot = this.plot; // for who looks at the page from outside
      this.legend();
    }
    this.note.textContent = panel.lines.length === 0 ? "No samples in this time." :
      panel.left_out > 0 ? `${panel.left_out} more have less; choose them in the table below.` : "";
    this.newest();
  }

  // newest shows the last values while no pointer is on the chart.
  newest() {
    const u = this.plot;
    if (!u || u.cursor.idx != null && u.cursor.left >= 0) return;
    for (let i = u.data[0].length - 1; i >= Math.max(0, u.data[0].length - 3); i--) {
      if (u.data.slice(1).some((values) => values[i] != null) || i === 0) {
        u.setLegend({ idx: i });
        return;
      }
    }
  }

  options(names, chosen) {
    const theme = themed();
    const unit = this.unit;
    const some = names.some((n) => chosen.has(n));
    return {
      width: this.width(), height,
      cursor: {
        sync: { key: together.key }, drag: { x: true, y: false, setScale: false },
        focus: { prox: 24 }, points: { size: 6 },
        bind: { dblclick: () => () => { this.on.back(); return null; } },
      },
      focus: { alpha: 0.25 },
      legend: { live: true },
      scales: { x: { time: true, range: (u) => [this.data.times[0], this.data.times.at(-1)] }, y: { range: (u, min, max) => [Math.min(0, min ?? 0), Math.max(max ?? 0, unit === "percent" ? 1 : 1e-9) * 1.05] } },
      axes: [
        { stroke: theme.text, grid: { stroke: theme.line, width: 1 }, ticks: { stroke: theme.line }, space: 64, values: (u, all, axis, space, incr) => all.map((t) => clock(t, incr)) },
        { stroke: theme.text, grid: { stroke: theme.line, width: 1 }, ticks: { stroke: theme.line }, size: 72, incrs: steps(unit), values: (u, all) => all.map((v) => written(unit, v)) },
      ],
      series: [
        { label: "Time", value: (u, t) => t == null ? "–" : moment(t) },
        ...names.map((name) => ({
          label: name, show: !this.hidden.has(name), spanGaps: false,
          stroke: colourOf(name) + (some && !chosen.has(name) ? "55" : ""), width: some && chosen.has(name) ? 2.5 : 1.5,
          value: (u, v) => v == null ? "–" : written(unit, v),
        })),
      ],
      plugins: [bands(() => this.data), marks(() => ({ ...this.on.marked(), colour: theme.text }))],
      hooks: {
        setSelect: [(u) => {
          if (u.select.width < 6) return;
          const from = u.posToVal(u.select.left, "x"), to = u.posToVal(u.select.left + u.select.width, "x");
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          this.on.zoom(from, to);
        }],
        setCursor: [(u) => { if (u.cursor.left < 0) this.newest(); }],
        setSeries: [(u, i, o) => {
          if (i == null || o.show === undefined) return;
          const name = u.series[i].label;
          if (u.series[i].show) this.hidden.delete(name);
          else this.hidden.add(name);
          this.rows?.[i]?.setAttribute("aria-pressed", String(u.series[i].show));
        }],
      },
    };
  }

  // legend makes its rows buttons: a click or Enter puts a line out and in.
  legend() {
    this.rows = [...this.plot.root.querySelectorAll(".u-legend .u-series")].map((row, i) => {
      const button = row.querySelector("th");
      if (i === 0 || !button) return null;
      button.tabIndex = 0;
      button.setAttribute("role", "button");
      button.setAttribute("aria-pressed", String(this.plot.series[i].show));
      button.addEventListener("keydown", (e) => {
        if (e.key !== "Enter" && e.key !== " ") return;
        e.preventDefault();
        this.plot.setSeries(i, { show: !this.plot.series[i].show });
      });
      button.addEventListener("focus", () => this.plot.setSeries(i, { focus: true }));
      button.addEventListener("blur", () => this.plot.setSeries(null, { focus: true }));
      return button;
    });
    const canvas = this.plot.root.querySelector("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", this.figure.querySelector("figcaption").textContent + "; its values are in the table that follows");
  }
}
