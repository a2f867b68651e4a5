// A value with its unit, in three digits, as the tables have it: bytes in
// powers of 1024, bytes a second in powers of 1000.
const units = {
  bytes: [1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]],
  "bytes/s": [1000, ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"]],
};

export const written = (unit, v) => {
  if (!units[unit]) return v.toFixed(1) + " %";
  const [base, names] = units[unit];
  let i = 0;
  while (Math.abs(v) >= base * 0.9995 && i < names.length - 1) {
    v /= base;
    i++;
  }
  const digits = i === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.max(Math.abs(v), 1))));
  return v.toFixed(digits) + " " + names[i];
};

// steps are the distances between the lines of a chart; bytes are told in
// powers of two.
export const steps = (unit) => unit === "bytes" ? Array.from({ length: 50 }, (_, i) => 2 ** i) : undefined;

const two = (n) => String(n).padStart(2, "0");
const date = (d) => `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
const time = (d) => `${two(d.getHours())}:${two(d.getMinutes())}`;

// clock is a time on an axis whose marks are so many seconds apart.
export const clock = (t, apart) => {
  const d = new Date(t * 1000);
  if (apart >= 86400) return date(d);
  if (apart < 60) return `${time(d)}:${two(d.getSeconds())}`;
  return d.getHours() === 0 && d.getMinutes() === 0 ? date(d) : time(d);
};

// moment is a time to the second.
export const moment = (t) => {
  const d = new Date(t * 1000);
  return `${date(d)} ${time(d)}:${two(d.getSeconds())}`;
};
