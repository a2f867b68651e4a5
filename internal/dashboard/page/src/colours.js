// Colours that are told apart on light and on dark ground. A name keeps its
// colour on all charts for as long as the page is open.
const colours = ["#3b82d6", "#d9622b", "#2f9e58", "#b0529c", "#b58900", "#0f9aa8", "#c94f6d", "#7a68d8", "#708238", "#8a6d5b", "#4c6a92", "#c2556e"];
const given = new Map();

export const colourOf = (name) => {
  if (!given.has(name)) given.set(name, colours[given.size % colours.length]);
  return given.get(name);
};

// themed are the page's colours now: a canvas has no style sheet.
export const themed = () => {
  const style = getComputedStyle(document.documentElement);
  return { text: style.getPropertyValue("--faint").trim(), line: style.getPropertyValue("--line").trim() };
};
