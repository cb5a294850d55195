// The text as the model saw it, one element per token. Token text is data: it only ever becomes textContent or an
// attribute, never markup. Selecting is a click, or the arrow keys (roving tabindex: one stop for the Tab key).

// Arrow keys move at once here. Python is asked at the first of them, and again when they rest.
const SETTLE_MS = 90;
const RESTED_MS = 250;

const strips = new WeakMap();

export default function (component) {
  const { parentElement, data, setTriggerValue } = component;
  let strip = strips.get(parentElement);
  if (!strip) {
    strip = { list: parentElement.querySelector(".strip"), id: null, timer: 0, moved: -Infinity, pending: null, sent: [] };
    strips.set(parentElement, strip);
    listen(strip);
  }
  strip.send = (position) => {
    strip.sent.push(position);
    setTriggerValue("selected", position);
  };
  strip.before = data.before; // the tokens just outside this page, if there are any
  strip.after = data.after;
  if (strip.id !== data.id) build(strip, data);
  paint(strip, data);
  if (strip.refocus && strip.selected >= 0) strip.tokens[strip.selected].focus({ preventScroll: true });
  strip.refocus = false;
}

function build(strip, data) {
  const page = document.createDocumentFragment();
  strip.tokens = data.tokens.map((token) => {
    const element = document.createElement("span");
    element.className = "token";
    element.setAttribute("role", "option");
    element.dataset.position = token.position;
    for (const [kind, text] of token.pieces) element.append(piece(kind, text));
    page.append(element);
    for (let i = 0; i < token.breaks; i += 1) page.append(document.createElement("br"));
    return element;
  });
  const typing = strip.list.contains(strip.list.getRootNode().activeElement);
  strip.list.replaceChildren(page);
  strip.list.dir = data.rtl ? "rtl" : "ltr";
  strip.list.setAttribute("aria-label", data.label);
  strip.list.scrollTop = 0;
  strip.id = data.id;
  strip.selected = null;
  settle(strip);
  strip.refocus = typing; // the keys went on to another page: stay on the keys
}

function piece(kind, text) {
  const element = document.createElement("span");
  element.className = kind === "mark" ? "mark" : "text";
  element.textContent = text;
  return element;
}

function paint(strip, data) {
  data.tokens.forEach((token, index) => {
    const element = strip.tokens[index];
    element.style.setProperty("--fill", token.color ?? "transparent");
    element.classList.toggle("category", data.kind === "category" && Boolean(token.color));
    element.classList.toggle("amount", data.kind === "amount" && Boolean(token.color));
    element.classList.toggle("on-dark", Boolean(token.on_dark));
    element.classList.toggle("faded", Boolean(token.faded));
    element.title = token.note;
    element.setAttribute("aria-label", token.note);
  });
  if (overtaken(strip, data.selected)) return;
  settle(strip);
  strip.answered = data.selected;
  mark(strip, strip.tokens.findIndex((element) => Number(element.dataset.position) === data.selected));
}

// Whether this is the answer to a choice that the reader has gone on from: it must not take them back.
function overtaken(strip, selected) {
  if (strip.pending === null || selected === strip.pending) return false;
  return selected === strip.answered || strip.sent.includes(selected);
}

function settle(strip) {
  clearTimeout(strip.timer);
  strip.pending = null;
  strip.sent = [];
}

// Show which token is selected; one token always stays reachable with the Tab key.
function mark(strip, index) {
  strip.tokens.forEach((element, at) => {
    element.setAttribute("aria-selected", String(at === index));
    element.tabIndex = at === Math.max(index, 0) ? 0 : -1;
  });
  if (strip.selected !== index && index >= 0) keepInView(strip.list, strip.tokens[index]);
  strip.selected = index;
}

function keepInView(list, element) {
  const box = list.getBoundingClientRect();
  const place = element.getBoundingClientRect();
  if (place.top < box.top + 8) list.scrollTop -= box.top + 8 - place.top;
  if (place.bottom > box.bottom - 8) list.scrollTop += place.bottom - box.bottom + 8;
}

function listen(strip) {
  strip.list.addEventListener("click", (event) => {
    const element = event.target.closest(".token");
    if (element) choose(strip, strip.tokens.indexOf(element), 0);
  });
  strip.list.addEventListener("keydown", (event) => {
    const next = target(strip, event.key);
    if (next === null || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const outside = next < 0 ? strip.before : next >= strip.tokens.length ? strip.after : undefined;
    if (outside === undefined) choose(strip, next, SETTLE_MS);
    else if (outside !== null) strip.send(outside);
  });
}

function choose(strip, index, wait) {
  const element = strip.tokens[index];
  if (!element) return;
  mark(strip, index);
  element.focus({ preventScroll: true });
  strip.pending = Number(element.dataset.position);
  clearTimeout(strip.timer);
  const now = performance.now();
  strip.timer = setTimeout(ask, now - strip.moved > RESTED_MS ? 0 : wait, strip);
  strip.moved = now;
}

function ask(strip) {
  if (strip.list.isConnected && strip.pending !== null) strip.send(strip.pending);
}

function target(strip, key) {
  const from = strip.tokens.findIndex((element) => element.tabIndex === 0);
  const forward = strip.list.dir === "rtl" ? "ArrowLeft" : "ArrowRight";
  const backward = strip.list.dir === "rtl" ? "ArrowRight" : "ArrowLeft";
  const last = strip.tokens.length - 1;
  if (key === forward) return from + 1;
  if (key === backward) return from - 1;
  if (key === "Home") return 0;
  if (key === "End") return last;
  if (key === "ArrowDown") return line(strip.tokens, from, 1);
  if (key === "ArrowUp") return line(strip.tokens, from, -1);
  if (key === "Enter" || key === " ") return from;
  return null;
}

// The token nearest in the line below (step 1) or above (step -1).
function line(tokens, from, step) {
  const here = tokens[from].getBoundingClientRect();
  const middle = (here.left + here.right) / 2;
  let best = from;
  let bestDistance = Infinity;
  let top = null;
  for (let at = from + step; at >= 0 && at < tokens.length; at += step) {
    const place = tokens[at].getBoundingClientRect();
    if (Math.abs(place.top - here.top) < 4) continue;
    if (top === null) top = place.top;
    if (Math.abs(place.top - top) >= 4) break;
    const distance = Math.abs((place.left + place.right) / 2 - middle);
    if (distance < bestDistance) [best, bestDistance] = [at, distance];
  }
  return best;
}
