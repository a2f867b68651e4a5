// Records of runs: buttons to start, mark and stop one, a list of those that
// were, and two of them side by side.
import { moment } from "./written.js";
import { compare } from "./compare.js";

const address = "-/api/v1/runs";
const every = 5000;
const listed = 20;

export class Runs {
  constructor(section, project, on) {
    this.project = project;
    this.on = on; // changed(), zoom(from, to)
    this.all = [];
    this.chosen = new Set(); // ids to compare
    this.box = element("div", "runs");
    this.bar = element("form", "range");
    this.bar.setAttribute("aria-label", "Run");
    this.text = element("input");
    this.text.maxLength = 100;
    this.say = element("output", "note");
    this.start = button("Start run", () => this.post("", { project, name: this.text.value.trim() || "run " + moment(Date.now() / 1000) }));
    this.mark = button("Mark", () => this.post(`/${this.going().id}/marks`, { text: this.text.value.trim() || "mark" }));
    this.stop = button("Stop run", () => this.post(`/${this.going().id}/stop`, {}));
    this.state = element("span");
    this.bar.append(this.state, this.text, this.start, this.mark, this.stop, this.say);
    this.bar.addEventListener("submit", (e) => e.preventDefault());
    this.list = element("details");
    this.list.append(element("summary", "", "Runs"), element("ul"));
    this.result = element("div");
    this.box.append(this.bar, this.list, this.result);
    this.box.hidden = true;
    section.querySelector(".charts").before(this.box);
    this.loop();
  }

  going() {
    return this.all.find((r) => r.ended == null);
  }

  async loop() {
    if (!document.hidden) await this.load();
    setTimeout(() => this.loop(), every);
  }

  async load() {
    try {
      const answer = await fetch(`${address}?project=${encodeURIComponent(this.project)}`, { signal: AbortSignal.timeout(10000) });
      this.box.hidden = answer.status === 404;
      if (!answer.ok) return;
      const runs = (await answer.json()).runs.sort((a, b) => b.started - a.started);
      const text = JSON.stringify(runs);
      if (text === this.known) return;
      this.known = text;
      this.all = runs;
      this.show();
      this.on.changed();
    } catch {
      // The page says by itself that the gateway does not answer.
    }
  }

  async post(path, body) {
    this.say.textContent = "";
    try {
      const answer = await fetch(address + path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
      if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || `the gateway answers ${answer.status}`);
      this.text.value = "";
    } catch (problem) {
      this.say.textContent = problem.message;
    }
    await this.load();
  }

  show() {
    const going = this.going();
    this.start.hidden = Boolean(going);
    this.mark.hidden = this.stop.hidden = !going;
    this.state.textContent = going ? `Run ${going.name} since ${moment(going.started)}` : "";
    this.text.placeholder = going ? "what happens now" : "name of a run";
    this.text.setAttribute("aria-label", going ? "Text of the mark" : "Name of the run");
    const rows = this.all.slice(0, listed).map((run) => {
      const row = element("li");
      const tick = element("input");
      tick.type = "checkbox";
      tick.checked = this.chosen.has(run.id);
      tick.setAttribute("aria-label", `Compare ${run.name}`);
      tick.addEventListener("change", () => {
        if (tick.checked) this.chosen.add(run.id);
        else this.chosen.delete(run.id);
        this.compared();
      });
      const look = button("Show", () => this.on.zoom(run.started, run.ended ?? Date.now() / 1000));
      const archive = element("a", "", "archive");
      archive.href = `${address}/${encodeURIComponent(run.id)}/archive`;
      row.append(tick, ` ${run.name}, ${moment(run.started)} to ${run.ended == null ? "now" : moment(run.ended)}, ${run.marks.length} ${run.marks.length === 1 ? "mark" : "marks"} `, look, " ", archive);
      return row;
    });
    this.list.hidden = rows.length === 0;
    this.list.querySelector("summary").textContent = `Runs (${this.all.length}); two of them can be compared`;
    this.list.querySelector("ul").replaceChildren(...rows);
  }

  async compared() {
    const two = [...this.chosen].slice(-2);
    this.result.replaceChildren();
    if (two.length < 2) return;
    const query = `a=${encodeURIComponent(two[0])}&b=${encodeURIComponent(two[1])}`;
    try {
      const answer = await fetch(`${address}/compare?${query}`);
      const body = await answer.json();
      if (!answer.ok) throw new Error(body.error);
      this.result.replaceChildren(compare(body, `${address}/compare?${query}&format=csv`));
    } catch (problem) {
      this.result.replaceChildren(element("p", "note", String(problem.message)));
    }
  }

  // marks and spans are what the charts show, in seconds since 1970.
  marks() {
    return this.all.flatMap((r) => r.marks.map((m) => ({ at: m.at, text: m.text })));
  }

  spans() {
    return this.all.map((r) => ({ from: r.started, to: r.ended ?? Infinity, text: r.name }));
  }
}

export const element = (name, kind = "", text = "") => {
  const e = document.createElement(name);
  if (kind) e.className = kind;
  if (text) e.textContent = text;
  return e;
};

const button = (text, pressed) => {
  const b = element("button", "", text);
  b.type = "button";
  b.addEventListener("click", pressed);
  return b;
};
