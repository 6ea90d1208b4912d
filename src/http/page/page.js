// Fetches the page every two seconds and replaces the parts that have changed. A part that holds
// the selection stays as it is; scroll position and focus are never touched.
"use strict";

const INTERVAL = 2000;
const LIMIT = 5000;
const away = document.getElementById("away");
let last = new Date();

function holdsSelection(part) {
  const selection = document.getSelection();
  return selection && !selection.isCollapsed && selection.rangeCount > 0
    && selection.getRangeAt(0).intersectsNode(part);
}

function show(next) {
  document.title = next.title;
  for (const part of document.querySelectorAll("[data-part]")) {
    const other = next.getElementById(part.id);
    if (!other || holdsSelection(part)) continue;
    if (part.className !== other.className) part.className = other.className;
    if (part.innerHTML !== other.innerHTML) part.innerHTML = other.innerHTML;
  }
}

async function refresh() {
  try {
    const response = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(LIMIT) });
    if (!response.ok) throw new Error(response.statusText);
    show(new DOMParser().parseFromString(await response.text(), "text/html"));
    last = new Date();
    away.hidden = true;
  } catch {
    away.textContent = "outboxd has not answered since " + last.toLocaleTimeString()
      + ". The page shows what was then.";
    away.hidden = false;
  }
  setTimeout(refresh, INTERVAL);
}

setTimeout(refresh, INTERVAL);
