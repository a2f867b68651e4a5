// Two runs side by side: what differs most first.
import { written } from "./written.js";

const most = 200;

export const compare = (body, csv) => {
  const box = document.createElement("div");
  box.className = "scroll";
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", "Comparison of two runs");
  const table = document.createElement("table");
  const caption = table.createCaption();
  const link = document.createElement("a");
  link.href = csv;
  link.textContent = "as CSV";
  const known = body.rows.filter((r) => r.a?.mean != null && r.b?.mean != null).map((r) => ({ ...r, change: change(r.a.mean, r.b.mean) }));
  known.sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
  caption.append(`${body.a.name} and ${body.b.name}: means, the largest changes first${known.length > most ? ` (${most} of ${known.length})` : ""} `, link);
  const head = table.createTHead().insertRow();
  for (const text of ["What", "Of", body.a.name, body.b.name, "Change"]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = text;
    head.append(cell);
  }
  const rows = table.createTBody();
  for (const r of known.slice(0, most)) {
    const row = rows.insertRow();
    const labels = Object.entries(r.labels || {}).map(([k, v]) => `${k}=${v}`).join(" ");
    for (const text of [r.metric + (r.rate ? " a second" : "") + (labels ? ` (${labels})` : ""), r.guest || r.host, figure(r, r.a.mean), figure(r, r.b.mean), percent(r.change)]) {
      row.insertCell().textContent = text;
    }
  }
  box.append(table);
  return box;
};

const change = (a, b) => (a === b ? 0 : (b - a) / Math.max(Math.abs(a), Math.abs(b)));
const percent = (v) => (v > 0 ? "+" : "") + (100 * v).toFixed(1) + " %";
const figure = (r, v) => {
  if (r.unit === "bytes") return written(r.rate ? "bytes/s" : "bytes", v);
  return Number(v.toPrecision(4)).toString();
};
