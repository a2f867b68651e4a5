// Shades the time in which the testbed itself disturbed what was measured, the
// deeper the more, beneath the lines.
export const bands = (data) => ({
  hooks: {
    drawClear: [(u) => {
      const { times, disturbed, step } = data();
      if (!disturbed) return;
      const { ctx, bbox } = u;
      ctx.save();
      ctx.beginPath();
      ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
      ctx.clip();
      for (let i = 0; i < times.length; i++) {
        if (!(disturbed[i] > 0)) continue;
        const from = u.valToPos(times[i] - step, "x", true), to = u.valToPos(times[i], "x", true);
        ctx.fillStyle = `rgba(217, 98, 43, ${0.08 + 0.37 * Math.min(1, disturbed[i])})`;
        ctx.fillRect(from, bbox.top, to - from, bbox.height);
      }
      ctx.restore();
    }],
  },
});
