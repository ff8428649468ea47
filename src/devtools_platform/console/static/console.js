// Keeps an open page true. Every page is complete without it: it only fetches what the server has rendered (and
// escaped) anew and puts it in place. Nothing here builds HTML from data.
"use strict";

const parse = (html) => new DOMParser().parseFromString(html, "text/html");

function swapLive(fresh) {
  for (const part of fresh.querySelectorAll("[data-live]")) {
    const shown = document.getElementById(part.id);
    if (!shown) continue;
    for (const detail of part.querySelectorAll("details[id]")) {
      const before = document.getElementById(detail.id);
      if (before) detail.open = before.open;
    }
    keepTyped(shown, part);
    enable(part);
    if (shown.isEqualNode(part)) continue;
    const focused = shown.contains(document.activeElement) ? document.activeElement.id : "";
    shown.replaceWith(part);
    if (focused) document.getElementById(focused)?.focus();
  }
}

// What a person has typed or chosen stays, when what is around it changes.
function keepTyped(shown, part) {
  for (const field of shown.querySelectorAll("input[id], textarea[id], select[id]")) {
    const fresh = part.querySelector(`#${CSS.escape(field.id)}`);
    if (!fresh) continue;
    if (field.type === "checkbox") fresh.checked = field.checked;
    else if (field.matches("select") || field.value !== field.defaultValue) fresh.value = field.value;
  }
}

async function refresh(address) {
  try {
    const response = await fetch(address);
    if (response.status === 401) location.reload();
    if (response.ok) swapLive(parse(await response.text()));
  } catch {
    // The server is away; the next round finds it again.
  }
}

function enable(part) {
  for (const button of part.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
});

function poll(main) {
  setInterval(() => document.hidden || refresh(location.href), Number(main.dataset.poll));
}

function follow(list) {
  const live = document.getElementById("live");
  const RETRY_MS = 3000;
  const REFRESH_MS = 1000;
  let last = Number(list.dataset.after);
  let waiting = false;

  const isAtEnd = () => list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  const toEnd = () => (list.scrollTop = list.scrollHeight);

  function refreshSoon() {
    if (waiting) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      refresh(list.dataset.panels);
    }, REFRESH_MS);
  }

  function append(message) {
    const seq = Number(message.lastEventId);
    if (seq <= last) return;
    last = seq;
    const stick = isAtEnd();
    list.append(...parse(message.data).body.children);
    document.querySelector(".when-empty")?.remove();
    if (stick) toEnd();
    refreshSoon();
  }

  function connect() {
    const source = new EventSource(`${list.dataset.events}?after=${last}`);
    source.addEventListener("open", () => (live.textContent = "Live"));
    source.addEventListener("entry", append);
    source.addEventListener("end", () => {
      source.close();
      live.textContent = "Ended";
      refresh(list.dataset.panels);
    });
    source.addEventListener("error", () => {
      live.textContent = "Reconnecting…";
      if (source.readyState !== EventSource.CLOSED) return; // it tries again by itself
      setTimeout(connect, RETRY_MS);
    });
  }

  toEnd();
  connect();
}

enable(document);
const main = document.querySelector("main[data-poll]");
if (main) poll(main);
const timeline = document.querySelector("#timeline[data-running=yes]");
if (timeline) follow(timeline);
