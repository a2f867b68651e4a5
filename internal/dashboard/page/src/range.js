// Which time is drawn: the last while, or from one moment to another. It
// stands in the page's address, so that a link shows the same.
const lasts = [["5 min", 300], ["15 min", 900], ["1 h", 3600], ["6 h", 21600], ["24 h", 86400], ["7 d", 604800]];
const usual = 900;
const furthest = 1e11; // seconds that the gateway takes

export class Range {
  constructor(section, changed) {
    this.changed = changed;
    const query = new URLSearchParams(location.search);
    const number = (name) => possible(Number(query.get(name)));
    this.last = number("range") || usual;
    this.from = number("from");
    this.to = number("to");
    this.build(section);
    this.mark();
  }

  // fixed: no new samples belong to it.
  fixed() {
    return this.from > 0 && this.to > this.from;
  }

  query() {
    return new URLSearchParams(this.fixed() ? { start: String(this.from), end: String(this.to) } : { range: String(this.last) });
  }

  zoom(from, to) {
    this.from = Math.floor(from);
    this.to = Math.max(Math.ceil(to), this.from + 5);
    this.apply();
  }

  live() {
    if (!this.fixed()) return;
    this.from = this.to = 0;
    this.apply();
  }

  apply() {
    const address = new URL(location.href);
    for (const name of ["range", "from", "to"]) address.searchParams.delete(name);
    if (this.fixed()) {
      address.searchParams.set("from", String(this.from));
      address.searchParams.set("to", String(this.to));
    } else if (this.last !== usual) {
      address.searchParams.set("range", String(this.last));
    }
    history.replaceState(null, "", address);
    this.mark();
    this.changed();
  }

  build(section) {
    const bar = document.createElement("form");
    bar.className = "range";
    bar.setAttribute("aria-label", "Time of the charts");
    this.buttons = lasts.map(([text, seconds]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.dataset.seconds = String(seconds);
      button.addEventListener("click", () => {
        this.last = seconds;
        this.from = this.to = 0;
        this.apply();
      });
      return button;
    });
    const moment = (text) => {
      const label = document.createElement("label");
      const input = document.createElement("input");
      input.type = "datetime-local";
      input.step = "1";
      label.append(text + " ", input);
      return [label, input];
    };
    const [fromLabel, from] = moment("from");
    const [toLabel, to] = moment("to");
    const show = document.createElement("button");
    show.textContent = "Show";
    bar.addEventListener("submit", (e) => {
      e.preventDefault();
      const [a, b] = [from, to].map((i) => possible(new Date(i.value).getTime() / 1000));
      if (a && b > a) this.zoom(a, b);
    });
    this.back = document.createElement("button");
    this.back.type = "button";
    this.back.className = "back";
    this.back.textContent = "Back to now";
    this.back.addEventListener("click", () => this.live());
    this.inputs = [from, to];
    bar.append(...this.buttons, fromLabel, toLabel, show, this.back);
    section.querySelector("h2").after(bar);
  }

  mark() {
    for (const b of this.buttons) b.setAttribute("aria-pressed", String(!this.fixed() && Number(b.dataset.seconds) === this.last));
    this.back.hidden = !this.fixed();
    if (this.fixed()) [this.from, this.to].forEach((t, i) => { this.inputs[i].value = local(t); });
  }
}

const possible = (t) => (t > 0 && t <= furthest ? t : 0);

const local = (t) => {
  const d = new Date(t * 1000);
  return new Date(d - d.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
};
