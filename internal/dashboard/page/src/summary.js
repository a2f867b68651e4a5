// Says in words what the shaded bands mean, when there are any.
export class Summary {
  constructor(section) {
    this.line = document.createElement("p");
    this.line.className = "note disturbed";
    this.line.hidden = true;
    section.querySelector(".charts").before(this.line);
  }

  show(data) {
    const known = (data.disturbed || []).filter((v) => v != null);
    const share = known.filter((v) => v > 0).length / (known.length || 1);
    const text = known.length === 0 ? "" : share === 0 ? "Nothing measured in this time was disturbed by the testbed itself." :
      `Shaded: the testbed itself disturbed what was measured, in ${(100 * share).toFixed(share < 0.1 ? 1 : 0)} % of this time.`;
    if (this.line.textContent !== text) this.line.textContent = text;
    this.line.hidden = text === "";
  }
}
