// Follows a run: asks for the page again and puts the new header and contents in the place of the old ones.
"use strict";

let tag = "";
let lost = false;

function tellAge() {
  const age = document.getElementById("age");
  if (!age) return;
  const seconds = Math.max(0, Math.round(Date.now() / 1000 - Number(age.dataset.written)));
  const ago = seconds < 100 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
  age.textContent = lost ? "copd watch has ended: this page stands still" : `last record ${ago} ago`;
}

// A fold is known again by its section, its label without numbers, and its place among those alike.
function folds(root) {
  const count = new Map();
  return [...root.querySelectorAll("details")].map((fold) => {
    const section = fold.closest("section");
    const name = `${section ? section.getAttribute("aria-labelledby") : ""} ${fold.firstElementChild.textContent.replace(/\d+/g, "")}`;
    count.set(name, (count.get(name) || 0) + 1);
    return [`${name} ${count.get(name)}`, fold];
  });
}

function show(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const open = new Set(folds(document).filter(([, fold]) => fold.open).map(([name]) => name));
  for (const [name, fold] of folds(fresh)) fold.open = open.has(name);
  for (const part of ["body > header", "body > main"]) {
    document.querySelector(part).replaceWith(document.adoptNode(fresh.querySelector(part)));
  }
  document.title = fresh.title;
}

async function again() {
  let wait = 5;
  try {
    const answer = await fetch("/", { headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.status === 200) {
      tag = answer.headers.get("ETag");
      show(await answer.text());
    }
    wait = Number(answer.headers.get("Retry-After"));
    lost = false;
  } catch {
    lost = true;
  }
  tellAge();
  if (wait) setTimeout(again, 1000 * wait);
}

tellAge();
setInterval(tellAge, 1000);
setTimeout(again, 1000);
