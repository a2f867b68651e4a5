// The guests and hosts whose lines the reader has chosen in the tables. They
// are on the charts however little they use, and stand out.
export class Chosen {
  constructor(changed) {
    this.all = new Set();
    this.changed = changed;
    const pick = (e) => {
      const name = e.target.closest("tbody th")?.querySelector("[data-name]")?.dataset.name;
      if (name === undefined || e.target.closest("a")) return;
      if (e.type === "keydown" && e.key !== "Enter" && e.key !== " ") return;
      e.preventDefault();
      this.toggle(name);
    };
    document.addEventListener("click", pick);
    document.addEventListener("keydown", pick);
  }

  has(name) {
    return this.all.has(name);
  }

  names() {
    return [...this.all];
  }

  toggle(name) {
    if (!this.all.delete(name)) this.all.add(name);
    while (this.all.size > 20) this.all.delete(this.all.values().next().value);
    for (const e of document.querySelectorAll("[data-name]")) e.setAttribute("aria-pressed", String(this.all.has(e.dataset.name)));
    this.changed();
  }
}
