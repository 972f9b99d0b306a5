// Live parts: the overview by events, other pages by asking anew. Everything else works without this file.
"use strict";

const live = document.getElementById("live");

// Times are shown in UTC; the title of each gets the local one, too.
function addLocalTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const local = new Date(time.dateTime).toLocaleString();
    if (!time.title.includes(local)) time.title += ` (${local} here)`;
  }
}

// Puts the new content in place; what has the focus keeps it, and nothing is replaced while something is typed there.
function replace(html) {
  const focused = live.contains(document.activeElement) ? document.activeElement : null;
  if (focused && ["INPUT", "TEXTAREA", "SELECT"].includes(focused.tagName)) return;
  const href = focused && focused.getAttribute("href");
  const open = [...live.querySelectorAll("details[open]")].map((details) => details.id).filter(Boolean);
  live.innerHTML = html;
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  if (href) live.querySelector(`[href="${CSS.escape(href)}"]`)?.focus({ preventScroll: true });
  addLocalTimes(live);
}

function say(text) {
  const place = document.getElementById("liveness");
  if (place && place.textContent !== text) place.textContent = text;
}

function follow(path) {
  const events = new EventSource(path);
  events.onopen = () => say("live");
  events.onmessage = (event) => replace(event.data);
  events.onerror = () => {
    say("not live: this dashboard does not answer, trying again");
    // A browser tries again by itself after a lost connection, and gives up after any other answer.
    if (events.readyState === EventSource.CLOSED) setTimeout(again, 5000, path);
  };
}

// Follows anew, or goes to the login where the session is over.
async function again(path) {
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (answer.redirected) return location.replace(answer.url);
  } catch {
    // It does not answer yet.
  }
  follow(path);
}

async function ask(seconds) {
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (answer.redirected) return location.replace(answer.url);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("live");
    if (answer.ok && fresh) {
      replace(fresh.innerHTML);
      say("live");
      if (!fresh.dataset.every) return;
    }
  } catch {
    say("not live: this dashboard does not answer, trying again");
  }
  setTimeout(ask, seconds * 1000, seconds);
}

addLocalTimes(document);
if (live?.dataset.events) follow(live.dataset.events);
if (live?.dataset.every) setTimeout(ask, live.dataset.every * 1000, Number(live.dataset.every));
