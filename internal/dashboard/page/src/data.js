// The numbers of all charts of a page. Its lines share their times.
export class Data {
  constructor(source) {
    this.source = source;
    this.times = [];
    this.panels = []; // {id, lines: [{name, values}], left_out}
    this.disturbed = null;
    this.step = 1;
    this.loaded = 0;
  }

  // old: which lines are the largest is looked at again from time to time.
  old() {
    return Date.now() - this.loaded > 60000;
  }

  async load(query, names) {
    for (const name of names) query.append("name", name);
    const got = await this.fetch(query);
    this.query = query;
    this.loaded = Date.now();
    this.step = got.step;
    this.times = times(got);
    this.panels = got.panels;
    this.disturbed = got.disturbed || null;
  }

  // more asks for what has come since, and leaves as much out at the other end.
  async more() {
    const last = this.times.at(-1);
    if (last === undefined) return this.load(this.query, []);
    // The newest point is asked for again: its samples may have been on their
    // way.
    const query = new URLSearchParams({ start: String(last), step: String(this.step), only: "1" });
    const names = new Set();
    for (const p of this.panels) for (const l of p.lines) names.add(l.name);
    if (names.size <= 100) for (const name of names) query.append("name", name);
    const got = await this.fetch(query.toString().length < 6000 ? query : withoutNames(query));
    const fresh = times(got);
    if (fresh.length === 0 || fresh[0] !== last || got.step !== this.step) {
      this.loaded = 0;
      return;
    }
    const drop = fresh.length - 1;
    const join = (old, now) => old.slice(drop, -1).concat(now || Array(fresh.length).fill(null));
    this.times = join(this.times, fresh);
    const panels = new Map(got.panels.map((p) => [p.id, new Map(p.lines.map((l) => [l.name, l.values]))]));
    for (const p of this.panels) {
      const lines = panels.get(p.id) || new Map();
      for (const l of p.lines) l.values = join(l.values, lines.get(l.name));
      const known = new Set(p.lines.map((l) => l.name));
      // One that was not there before: the next load has it from its beginning.
      if (p.left_out === 0 && [...lines.keys()].some((name) => !known.has(name))) this.loaded = 0;
    }
    if (this.disturbed || got.disturbed) {
      this.disturbed = join(this.disturbed || Array(this.times.length).fill(null), got.disturbed);
    }
    this.disturbed = this.disturbed && this.disturbed.slice(-this.times.length);
  }

  async fetch(query) {
    const answer = await fetch(this.source + "?" + query, { signal: AbortSignal.timeout(20000) });
    const body = await answer.json();
    if (!answer.ok) {
      const problem = new Error(body.error || String(answer.status));
      problem.ours = answer.status >= 400 && answer.status < 500 && answer.status !== 429; // the same comes of it again
      throw problem;
    }
    return body;
  }
}

const times = (got) => Array.from({ length: got.count }, (_, i) => got.start + i * got.step);

const withoutNames = (query) => {
  query.delete("name");
  query.delete("only");
  return query;
};
