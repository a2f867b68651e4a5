// Keeps the page up to date: fetches it again every two seconds and changes
// what differs, so that focus, opened sections and the graphs stay as they are.
"use strict";

(() => {
  const every = 2000;
  const page = document.getElementById("page");
  const silence = document.getElementById("silence");
  if (!page || "still" in page.dataset) return;

  // Elements are the same when they have the same id, or else the same place
  // among the elements of their name.
  const keyed = (parent) => {
    const counts = {}, keys = new Map();
    for (const child of parent.children) {
      const name = child.nodeName;
      counts[name] = (counts[name] || 0) + 1;
      keys.set(child.id ? name + "#" + child.id : name + counts[name], child);
    }
    return keys;
  };

  const update = (old, now) => {
    if ("own" in old.dataset) return; // another script's
    const own = (name) => name === "open" && old.nodeName === "DETAILS" || name === "aria-pressed"; // the reader's choice
    for (const { name, value } of now.attributes) {
      if (!own(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      if (!own(name) && !now.hasAttribute(name)) old.removeAttribute(name);
    }
    const before = keyed(old), after = keyed(now), pairs = new Map();
    for (const [key, child] of before) {
      if (after.has(key)) pairs.set(after.get(key), child);
      else child.remove();
    }
    let next = old.firstChild;
    const drop = () => {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    };
    for (const child of now.childNodes) {
      const same = pairs.get(child);
      if (same) {
        // The text before it goes, not the element: moved graphs would reload.
        while (next && next.nodeType !== Node.ELEMENT_NODE) drop();
        if (next === same) next = next.nextSibling;
        else old.insertBefore(same, next);
        update(same, child);
      } else if (child.nodeType === Node.TEXT_NODE && next && next.nodeType === Node.TEXT_NODE) {
        if (next.data !== child.data) next.data = child.data;
        next = next.nextSibling;
      } else {
        old.insertBefore(document.importNode(child, true), next);
      }
    }
    while (next) drop();
  };

  let answered = Date.now();
  const say = (text) => {
    if (silence.hidden === Boolean(text)) silence.hidden = !text;
    if (silence.textContent !== text) silence.textContent = text;
  };

  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.pathname + location.search, { cache: "no-store", signal: AbortSignal.timeout(10000) });
      if (answer.status === 404) {
        say("This deployment is gone; what is shown is what was known of it last.");
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("page");
      if (!fresh) throw new Error("another page");
      window.faninTables(fresh);
      update(page, fresh);
      answered = Date.now();
      say("");
    } catch {
      if (Date.now() - answered > 5000) say("The gateway does not answer since " + new Date(answered).toLocaleTimeString() + "; what is shown is from then.");
    }
  };

  const loop = async () => {
    await refresh();
    setTimeout(loop, every);
  };
  setTimeout(loop, every);
  document.addEventListener("visibilitychange", refresh);
})();
