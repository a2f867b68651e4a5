// Draws runs as lines along the bottom of a chart, and marks as upright ones
// with their text.
export const marks = (of) => ({
  hooks: {
    draw: [(u) => {
      const { marks, spans, colour } = of();
      const { ctx, bbox } = u;
      const [from, to] = [u.scales.x.min, u.scales.x.max];
      const scale = devicePixelRatio || 1;
      ctx.save();
      ctx.beginPath();
      ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
      ctx.clip();
      ctx.strokeStyle = ctx.fillStyle = colour;
      ctx.font = `${11 * scale}px sans-serif`;
      ctx.lineWidth = 3 * scale;
      for (const s of spans) {
        if (s.to < from || s.from > to) continue;
        const y = bbox.top + bbox.height - ctx.lineWidth / 2;
        ctx.beginPath();
        ctx.moveTo(u.valToPos(Math.max(s.from, from), "x", true), y);
        ctx.lineTo(u.valToPos(Math.min(s.to, to), "x", true), y);
        ctx.stroke();
      }
      ctx.lineWidth = scale;
      ctx.setLineDash([4 * scale, 3 * scale]);
      for (const m of marks) {
        if (m.at < from || m.at > to) continue;
        const x = u.valToPos(m.at, "x", true);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        ctx.fillText(m.text.length > 24 ? m.text.slice(0, 23) + "…" : m.text, x + 3 * scale, bbox.top + 11 * scale);
      }
      ctx.restore();
    }],
  },
});
