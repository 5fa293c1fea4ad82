// The labelling page. Texts of records are placed as text alone (textContent), never as markup.
//
// A label goes to localStorage first, under a key of its own, and leaves it when the server has stored it. So it is not
// lost when the server or the browser ends at any moment, and several tabs do not overwrite each other. A label that is
// sent twice counts once.

const $ = (id) => document.getElementById(id);
const AHEAD = 10; // tasks in hand below which more are fetched
const MOST_SENT = 50, MOST_CHARACTERS = 2_000_000; // of a request
const LONGEST_TEXT = 1_000_000, DRAFT_MS = 3000, HISTORY = 200;
const RESERVED = "usg";
const REASONS = ["The guideline does not say", "The text is damaged or incomplete", "Not my language or subject"];

let round = null; // the answer of /api/state
let annotator = null;
let clock = 0; // the server's time less this machine's, in milliseconds
let hand = []; // tasks to label; the first is shown
let posts = 0; // of labels, that the server has answered
let finished = new Set(); // tasks that this page has labelled or skipped
let history = []; // [{task, value, seconds}], the last one at the end
let control = null; // of the task that is shown
let progress = null;
let fetching = false, sending = false, isOffline = false, retryIn = 1000, retry = 0, closed = false;
const unkept = new Map(); // labels that localStorage has no room for

// --- elements

function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((one) => one !== null));
  return made;
}
const text = (words, className = "text") => {
  const made = el("div", { class: className, dir: "auto" });
  made.textContent = words;
  return made;
};
function content(part) {
  if (part.turns) {
    const turns = el("div", { class: "turns" });
    for (const turn of part.turns) {
      const role = el("h3", { dir: "auto" });
      role.textContent = turn.role;
      turns.append(el("div", { class: "turn", "data-role": turn.role }, role, text(turn.text)));
    }
    return turns;
  }
  return part.text === null || part.text === "" ? el("p", { class: "none" }, "empty") : text(part.text);
}
function named(title, ...children) {
  const made = el("section", { class: "part" });
  if (title) {
    const head = el("h3", { dir: "auto" });
    head.textContent = title;
    made.append(head);
    made.setAttribute("aria-label", title);
  }
  made.append(...children);
  return made;
}
const speak = (words) => { $("spoken").textContent = words; };
const problem = (words) => { $("problem").textContent = words; };
function notice(words) {
  $("notice").textContent = words;
  $("notice").hidden = !words;
}
const plural = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

// --- what is kept in this browser

const key = (...parts) => ["raymill", round.round, ...parts].join(":");
function kept(name) {
  try { return JSON.parse(localStorage.getItem(name)); } catch { return null; }
}
function keep(name, value) {
  try { localStorage.setItem(name, JSON.stringify(value)); return true; } catch { return false; }
}
function forget(name) {
  try { localStorage.removeItem(name); } catch { /* nothing is kept */ }
}
function outbox() {
  const prefix = key("out", annotator, ""), found = new Map(unkept);
  try {
    for (let at = 0; at < localStorage.length; at++) {
      const name = localStorage.key(at);
      if (!name.startsWith(prefix)) continue;
      const value = kept(name);
      if (value) found.set(name, value);
    }
  } catch { /* nothing is kept */ }
  return [...found].sort((one, other) => (one[1].at < other[1].at ? -1 : 1));
}
function now() {
  // Later than any time of this annotator here, so that the order of labels is the order of what was done.
  const last = kept(key("last", annotator)) ?? 0;
  const time = Math.max(Math.round(Date.now() + clock), last + 1);
  keep(key("last", annotator), time);
  return new Date(time).toISOString();
}

// --- requests

async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, { ...options, signal: AbortSignal.timeout(30_000), cache: "no-store" });
  if (answer.ok) return answer.json();
  const words = (await answer.text()).trim();
  if (answer.status === 403 || answer.status === 421) {
    closed = true;
    notice(`${words} Nothing is lost: what was not sent is kept in this browser.`);
  }
  throw Object.assign(new Error(words), { status: answer.status });
}

function put(task, status, value, more = {}) {
  const answer = { task, status, at: now(), guideline: round.guideline.version, ...more };
  if (value !== undefined) answer.value = value;
  const name = key("out", annotator, answer.at, Math.random().toString(36).slice(2, 8));
  if (!keep(name, answer)) {
    unkept.set(name, answer);
    notice("This browser has no room to keep labels. Do not close this page before it says “Saved”.");
  }
  if (progress) setProgress(progress);
  showSaving();
  send();
}

async function send() {
  if (sending || !annotator) return showSaving();
  clearTimeout(retry);
  sending = true;
  const who = annotator, slow = setTimeout(() => { if (!isOffline) $("saving").textContent = "Saving"; }, 500);
  try {
    for (let waiting = outbox(); waiting.length; waiting = outbox()) {
      let characters = 0;
      const some = waiting.slice(0, MOST_SENT).filter(([, one], at) => {
        characters += JSON.stringify(one.value ?? "").length;
        return at === 0 || characters < MOST_CHARACTERS;
      });
      const told = await ask("/api/answers", { annotator, answers: some.map(([, one]) => one) });
      for (const { number, problem: why } of told.refused) {
        keep(key("refused", annotator, some[number][1].at), some[number][1]);
        notice(`A label was not accepted: ${why}. It is kept in this browser.`);
      }
      for (const [name] of some) { forget(name); unkept.delete(name); }
      online();
      if (annotator !== who) break;
      posts += 1;
      setProgress(told.progress);
      if (told.guideline !== round.guideline.version) await refresh();
    }
  } catch (error) {
    offline(error);
  } finally {
    clearTimeout(slow);
    sending = false;
    showSaving();
  }
}
function online() {
  if (closed) notice("");
  isOffline = closed = false;
  retryIn = 1000;
}
function offline(error) {
  isOffline = true;
  if (error.status === 503 || error.status === 500) notice(`The server cannot store labels: ${error.message}`);
  clearTimeout(retry);
  retry = setTimeout(again, retryIn);
  retryIn = Math.min(retryIn * 2, 10_000);
}
async function again() {
  clearTimeout(retry);
  await send();
  if (!outbox().length && (isOffline || hand.length < AHEAD)) await refill();
}
function showSaving() {
  if (!annotator) return;
  const waiting = outbox().length;
  $("saving").dataset.unsent = waiting;
  $("saving").className = waiting && isOffline ? "waiting" : "";
  if (waiting && !isOffline) return; // it is being sent
  const words = !waiting ? (isOffline ? "No server" : "Saved") : `Waiting, ${waiting} not sent`;
  if ($("saving").textContent !== words) $("saving").textContent = words;
}

async function refresh() {
  const found = await ask("/api/state");
  const isNew = round && round.guideline.version !== found.guideline.version;
  round = found;
  clock = found.now - Date.now();
  showGuideline();
  if (isNew) notice("The guideline was changed. Press g to read it.");
}

async function refill() {
  if (fetching) return;
  fetching = true;
  const who = annotator;
  try {
    const waiting = outbox().map(([, one]) => one.task);
    const having = [...new Set([...hand.map((one) => one.id), ...waiting])].slice(0, 1000);
    const before = posts;
    const found = await ask("/api/next", { annotator, having });
    if (annotator !== who) return;
    const had = new Set(hand.map((one) => one.id));
    const added = found.tasks.filter((one) => !had.has(one.id) && !finished.has(one.id));
    const wasEmpty = !hand.length;
    hand.push(...added);
    online();
    if (posts === before) setProgress(found.progress); // else it may be from before the labels that were sent meanwhile
    if (wasEmpty) show(added.length ? null : "done");
  } catch (error) {
    offline(error);
    if (!hand.length) show("waiting");
  } finally {
    fetching = false;
    showSaving();
    if (annotator && annotator !== who) refill();
  }
}

function setProgress(found) {
  progress = found;
  const unsent = outbox().reduce((sum, [, one]) => sum + (one.status === "withdrawn" ? -1 : 1), 0);
  $("progress").hidden = false;
  showSummary();
  const shown = Math.max(0, Math.min(found.tasks, found.labelled + found.skipped + unsent));
  $("bar").max = Math.max(1, found.tasks);
  $("bar").value = shown;
  const disputed = found.disputed ? `, ${found.disputed.toLocaleString("en")} disputed` : "";
  $("count").textContent = `${shown.toLocaleString("en")} of ${found.tasks.toLocaleString("en")}${disputed}`;
}

function showSummary() {
  const line = $("summary");
  if (line) line.textContent = `${plural(progress.labelled, "task")} labelled, ${progress.skipped.toLocaleString("en")} skipped.`;
}

// --- the time of a task

const timer = {
  spent: 0, since: null,
  start(spent) { this.spent = spent * 1000; this.since = document.hidden ? null : performance.now(); },
  stop() { if (this.since !== null) this.spent += performance.now() - this.since; this.since = null; },
  resume() { if (this.since === null) this.since = performance.now(); },
  get seconds() {
    const running = this.since === null ? 0 : performance.now() - this.since;
    return Math.min(604_800, Math.round((this.spent + running) / 100) / 10);
  },
};

// --- drafts

let draftTimer = 0;
function changed() {
  problem("");
  const task = hand[0];
  if (!task || !control) return;
  const value = control.draft();
  if (value === undefined) return;
  keep(key("draft", annotator, task.id), { value, at: now(), seconds: timer.seconds });
  clearTimeout(draftTimer);
  if (control.isLong) draftTimer = setTimeout(() => sendDraft(task.id, value), DRAFT_MS);
}
async function sendDraft(task, value) {
  clearTimeout(draftTimer);
  if (value === "" || finished.has(task)) return;
  // Also kept in this browser, so a draft that does not arrive is no loss.
  const answer = { task, status: "draft", value, at: now(), guideline: round.guideline.version, seconds: timer.seconds };
  try { await ask("/api/answers", { annotator, answers: [answer] }); } catch { /* the next one may arrive */ }
}

// --- kinds of answers: {main, dock, value(), draft(), set(value), press(event), focus(), help, isLong}
//
// main, dock: elements beside the record, and below. value: undefined if there is none yet. press: whether a key was
// meant for it. isLong: whether the server keeps drafts, too.

// Keys of labels: digits, then letters without those of the page.
const KEYS = ["1", "2", "3", "4", "5", "6", "7", "8", "9", ..."abcdefghijklmnopqrstuvwxyz"].filter((one) => !RESERVED.includes(one));
const letter = (at) => (at < 26 ? String.fromCharCode(65 + at) : `${at + 1}`);

function choices(options, several) {
  const box = el("fieldset", { class: `choices${several ? " several" : ""}`, role: several ? "group" : "radiogroup", "aria-label": round.question });
  const inputs = options.map((option, at) => {
    const input = el("input", { type: several ? "checkbox" : "radio", name: "choice", value: option.value, onchange: changed });
    const words = el("span", { dir: "auto" });
    words.textContent = option.label;
    const hint = option.key && option.key !== option.label ? el("kbd", { "aria-hidden": "true" }, option.key.toUpperCase()) : null;
    box.append(el("label", { class: "choice", title: option.key ? `Key ${option.key}` : null }, input, hint, el("span", { class: "tick" }), words));
    if (option.key) input.setAttribute("aria-keyshortcuts", option.key);
    return input;
  });
  const toggle = (input) => {
    input.checked = several ? !input.checked : true;
    input.closest("label").scrollIntoView({ block: "nearest" });
    speak(`${options[inputs.indexOf(input)].label}${input.checked ? "" : ", not chosen"}`);
    changed();
  };
  const dock = el("div", {}, box);
  let filter = null;
  if (options.length > 20) {
    filter = el("input", { type: "search", class: "filter", placeholder: "Find a label: /", "aria-label": "Find a label", autocomplete: "off", dir: "auto" });
    const matches = () => inputs.filter((one) => !one.closest("label").hidden);
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase();
      inputs.forEach((one, at) => { one.closest("label").hidden = !options[at].label.toLowerCase().includes(words); });
    });
    filter.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) {
        event.preventDefault();
        event.stopPropagation();
        const [first] = matches();
        if (first) { toggle(first); leave(); }
      } else if (event.key === "Escape") { event.preventDefault(); leave(); }
    });
    const leave = () => {
      filter.value = "";
      filter.dispatchEvent(new Event("input"));
      $("task").focus({ preventScroll: true });
      inputs.find((one) => one.checked)?.closest("label").scrollIntoView({ block: "nearest" });
    };
    dock.prepend(filter);
  }
  const value = () => {
    const found = inputs.filter((one) => one.checked).map((one) => one.value);
    return several ? found : found[0];
  };
  return {
    dock, value, draft: value,
    set(given) {
      const wanted = [given].flat().map(String);
      for (const one of inputs) one.checked = wanted.includes(one.value);
    },
    press(event) {
      if (event.key === "/" && filter) { filter.focus(); return true; }
      const at = options.findIndex((one) => one.key === event.key.toLowerCase() || (one.keys ?? []).includes(event.key.toLowerCase()));
      if (at < 0) return false;
      toggle(inputs[at]);
      return true;
    },
    isLong: several,
    missing: "Choose a label first.",
    help: [["1 – 9, A – Z", several ? "choose labels, or take them back" : "choose a label"], ...(filter ? [["/", "find a label by its name"]] : [])],
  };
}

function number(points) {
  const input = el("input", { type: "number", min: 1, max: points, step: 1, id: "points", inputmode: "numeric", oninput: changed });
  const dock = el("div", { class: "number" }, el("label", { for: "points" }, `From 1 to ${points}`), input);
  const value = () => {
    const found = Number(input.value);
    return input.value && Number.isInteger(found) && found >= 1 && found <= points ? String(found) : undefined;
  };
  return {
    dock, value, draft: value,
    set(given) { input.value = given; },
    press(event) {
      if (!/^[0-9]$/.test(event.key) || document.activeElement === input) return false;
      input.focus();
      input.select();
      return false; // the digit goes to the field
    },
    focus: () => input.focus({ preventScroll: true }),
    missing: `Give a number from 1 to ${points}.`,
    help: [["0 – 9", "the number of points"]],
  };
}

function compare(task) {
  const main = el("div", { class: "beside" }, ...task.answers.map((one, at) => {
    const card = named(`Answer ${letter(at)}`, content(one));
    card.classList.add("card");
    return card;
  }));
  const options = task.answers.map((one, at) => ({
    value: one.value, label: `${letter(at)} is better`, key: String(at + 1), keys: [letter(at).toLowerCase(), ["arrowleft", "arrowright"][at]],
  }));
  if (round.tie) options.push({ value: "tie", label: "Tie", key: "0", keys: ["t", "3"] });
  const made = choices(options, false);
  return { ...made, main, missing: "Choose an answer first.", help: [["1, ←", "A is better"], ["2, →", "B is better"], ...(round.tie ? [["0", "tie"]] : [])] };
}

function rank(task) {
  let order = task.answers.map((one) => one.value);
  const name = new Map(task.answers.map((one, at) => [one.value, `Answer ${letter(at)}`]));
  const list = el("ol", { class: "ranking", "aria-label": "The best first" });
  const items = new Map(task.answers.map((one) => {
    const card = named(name.get(one.value), content(one));
    card.classList.add("card");
    const button = (sign, by, words) => el("button", { type: "button", "aria-label": `${name.get(one.value)} ${words}`, onclick: () => move(one.value, by, true) }, sign);
    const moves = el("div", { class: "moves" }, button("↑", -1, "up"), button("↓", 1, "down"));
    return [one.value, el("li", { tabindex: 0 }, el("span", { class: "place" }), card, moves)];
  }));
  function draw() {
    order.forEach((value, at) => {
      const item = items.get(value);
      item.querySelector(".place").textContent = at + 1;
      item.setAttribute("aria-label", `${name.get(value)}, place ${at + 1} of ${order.length}`);
      list.append(item);
    });
  }
  function place(value, to) {
    const at = order.indexOf(value);
    if (to < 0 || to >= order.length || to === at) return;
    order.splice(at, 1);
    order.splice(to, 0, value);
    const active = document.activeElement;
    draw();
    if (active && list.contains(active)) active.focus();
    speak(`${name.get(value)}: place ${to + 1} of ${order.length}`);
    changed();
  }
  const move = (value, by) => place(value, order.indexOf(value) + by);
  const focused = () => order.find((value) => items.get(value).contains(document.activeElement));
  draw();
  return {
    main: list, dock: el("p", { class: "hint" }, "↑ ↓ select an answer, Shift with ↑ ↓ moves it. A letter and then a digit places it."),
    isLong: true, value: () => [...order], draft: () => [...order],
    set(given) { if (Array.isArray(given) && given.length === order.length && given.every((one) => items.has(one))) { order = [...given]; draw(); } },
    press(event) {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key], at = order.indexOf(focused());
      if (step && event.shiftKey && at >= 0) { move(order[at], step); return true; }
      if (step && !event.shiftKey) {
        const to = at < 0 ? (step > 0 ? 0 : order.length - 1) : Math.min(order.length - 1, Math.max(0, at + step));
        items.get(order[to]).focus();
        return true;
      }
      const letterAt = RESERVED.includes(event.key) ? -1 : task.answers.findIndex((_, one) => letter(one).toLowerCase() === event.key.toLowerCase());
      if (letterAt >= 0) { items.get(task.answers[letterAt].value).focus(); return true; }
      if (/^[1-9]$/.test(event.key) && at >= 0) { place(order[at], Number(event.key) - 1); return true; }
      return false;
    },
    help: [["↑ ↓", "select an answer"], ["Shift ↑ ↓", "move it"], ["A, 1", "put answer A first"]],
  };
}

function written(task) {
  const isCorrection = round.type === "correct", original = task.text ?? "";
  const field = el("textarea", { id: "written", "aria-label": round.question, dir: "auto", rows: 8, maxlength: LONGEST_TEXT, oninput: () => { resize(); changed(); } });
  // A textarea has \n for every line end: what was not changed is returned as it was.
  const shown = original.replace(/\r\n?/g, "\n");
  const ends = original.includes("\r\n") && !/[^\r]\n|^\n/.test(original) ? "\r\n" : "\n";
  function resize() {
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight + 2, Math.max(240, window.innerHeight * 0.6))}px`;
  }
  const value = () => {
    if (isCorrection && field.value === shown) return original;
    return whole(ends === "\n" ? field.value : field.value.replace(/\n/g, ends));
  };
  if (isCorrection) field.value = shown;
  const reset = isCorrection ? el("button", { type: "button", onclick: () => { field.value = shown; resize(); changed(); field.focus(); } }, "Restore the text") : null;
  const main = el("div", { class: "part" }, field);
  if (reset) main.append(el("div", {}, reset));
  return {
    main, dock: el("p", { class: "hint" }, "Ctrl Enter submits. Esc leaves the text, so that the other keys work."),
    value: () => (!isCorrection && !field.value.trim() ? undefined : value()),
    draft: value,
    set(given) { field.value = String(given).replace(/\r\n?/g, "\n"); resize(); },
    press: () => false,
    focus() { resize(); field.focus({ preventScroll: true }); },
    isLong: true,
    missing: "Write an answer first.",
    submitKey: "Ctrl Enter",
    help: [["Ctrl Enter", "submit from within the text"], ["Esc", "leave the text"], ["Tab", "go to the buttons"]],
  };
}
// Half of a surrogate pair is no character, and cannot be stored.
const whole = (words) => words.toWellFormed ? words.toWellFormed() : words;

function spans(task) {
  // Inside of this function places are in UTF-16 units, as the browser counts; values are in code points, as Python does.
  const words = task.text, bounds = [...words.matchAll(/\S+/gu)].map((one) => [one.index, one.index + one[0].length]);
  const points = (to) => { let found = 0; for (let at = 0; at < to; found++) at += words.codePointAt(at) > 0xffff ? 2 : 1; return found; };
  const units = (count) => { let at = 0; for (let one = 0; one < count; one++) at += words.codePointAt(at) > 0xffff ? 2 : 1; return at; };
  const isInside = (at) => at > 0 && at < words.length && /[\udc00-\udfff]/.test(words[at]) && /[\ud800-\udbff]/.test(words[at - 1]);
  let marks = []; // [{start, end, label}]
  let cursor = null; // {from, to}: numbers of words; or {start, end} of a part
  const body = el("div", { class: "markable", dir: "auto", tabindex: 0, role: "textbox", "aria-readonly": "true", "aria-multiline": "true", "aria-label": "Text to mark" });
  const list = el("ul", { class: "spans", "aria-label": "Marked parts" });
  const color = (label) => `m${round.labels.indexOf(label) % 8}`;
  const chosen = () => cursor && { start: cursor.start ?? bounds[Math.min(cursor.from, cursor.to)][0], end: cursor.end ?? bounds[Math.max(cursor.from, cursor.to)][1] };

  function draw() {
    const place = chosen(), cuts = new Set([0, words.length]);
    for (const one of [...marks, ...(place ? [place] : [])]) { cuts.add(one.start); cuts.add(one.end); }
    const at = [...cuts].sort((a, b) => a - b);
    body.replaceChildren(...at.slice(1).map((end, number) => {
      const start = at[number], piece = document.createTextNode(words.slice(start, end));
      const over = marks.filter((one) => one.start <= start && end <= one.end);
      const isChosen = place && place.start <= start && end <= place.end;
      if (!over.length && !isChosen) return piece;
      const made = el(over.length ? "mark" : "span", { class: `${over.length ? color(over[over.length - 1].label) : ""}${isChosen ? " cursor" : ""}` }, piece);
      if (over.length) made.title = over.map((one) => one.label).join(", ");
      return made;
    }));
    list.replaceChildren(...marks.map((one) => {
      const quote = el("span", { class: "quote", dir: "auto" }), name = el("strong", { dir: "auto" });
      quote.textContent = words.slice(one.start, one.end);
      name.textContent = one.label;
      return el("li", { class: color(one.label) }, name, quote,
        el("button", { type: "button", "aria-label": `Remove ${one.label}: ${words.slice(one.start, one.end).slice(0, 80)}`, onclick: () => remove((other) => other === one) }, "×"));
    }));
    body.querySelector(".cursor")?.scrollIntoView({ block: "nearest" });
  }
  function remove(test) {
    const before = marks.length;
    marks = marks.filter((one) => !test(one));
    draw();
    if (marks.length < before) { speak("removed"); changed(); }
  }
  function add(label) {
    const place = selected() ?? chosen();
    if (!place || place.start >= place.end) { problem("Select a part of the text first."); return; }
    if (!marks.some((one) => one.start === place.start && one.end === place.end && one.label === label)) {
      marks.push({ ...place, label });
      marks.sort((one, other) => one.start - other.start || one.end - other.end);
    }
    window.getSelection().removeAllRanges();
    // After a selection by the mouse the keyboard goes on from there.
    const word = bounds.findIndex(([, end]) => end >= place.end);
    cursor = word < 0 ? null : { from: word, to: word };
    draw();
    speak(`${label}: ${words.slice(place.start, place.end).slice(0, 200)}`);
    changed();
  }
  function selected() {
    const selection = window.getSelection();
    if (!selection.rangeCount || selection.isCollapsed) return null;
    const range = selection.getRangeAt(0);
    if (!body.contains(range.startContainer) || !body.contains(range.endContainer)) return null;
    const before = document.createRange();
    before.selectNodeContents(body);
    before.setEnd(range.startContainer, range.startOffset);
    let start = before.toString().length, end = start + range.toString().length;
    while (start < end && /\s/.test(words[start])) start++;
    while (end > start && /\s/.test(words[end - 1])) end--;
    if (isInside(start)) start--;
    if (isInside(end)) end++;
    return start < end ? { start, end } : null;
  }
  function step(event, by) {
    if (!bounds.length) return;
    if (event.altKey) { // by characters
      const place = chosen();
      if (!place) return;
      let end = place.end + by;
      if (isInside(end)) end += by;
      if (end > place.start && end <= words.length) cursor = { start: place.start, end };
    } else {
      if (cursor && cursor.from === undefined) {
        const { start, end } = cursor;
        cursor = { from: Math.max(0, bounds.findIndex((one) => one[1] > start)), to: Math.max(0, bounds.findIndex((one) => one[1] >= end)) };
      }
      const to = cursor ? Math.min(bounds.length - 1, Math.max(0, cursor.to + by)) : by > 0 ? 0 : bounds.length - 1;
      cursor = { from: event.shiftKey && cursor ? cursor.from : to, to };
    }
    window.getSelection().removeAllRanges();
    draw();
    const place = chosen();
    speak(words.slice(place.start, place.end).slice(0, 200));
  }
  draw();
  const buttons = round.labels.map((label, at) => {
    const name = el("span", { dir: "auto" });
    name.textContent = label;
    const made = el("button", { type: "button", class: `choice paint ${color(label)}`, onclick: () => add(label) }, KEYS[at] ? el("kbd", { "aria-hidden": "true" }, KEYS[at].toUpperCase()) : null, name);
    made.addEventListener("mousedown", (event) => event.preventDefault()); // keeps the selection
    return made;
  });
  const value = () => {
    const found = new Map(marks.map((one) => {
      const plain = { start: points(one.start), end: points(one.end), label: one.label };
      return [JSON.stringify(plain), plain];
    }));
    return [...found.values()];
  };
  return {
    main: el("div", { class: "part" }, el("div", { class: "card" }, body), list),
    dock: el("div", {}, el("div", { class: "choices" }, ...buttons)),
    isLong: true, value, draft: value,
    set(given) { marks = (given ?? []).map((one) => ({ start: units(one.start), end: units(one.end), label: one.label })); draw(); },
    press(event) {
      const sign = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
      if (sign) { step(event, getComputedStyle(body).direction === "rtl" ? -sign : sign); return true; }
      if (event.altKey) return false;
      if (event.key === "Delete" || event.key === "Backspace") {
        const place = chosen();
        if (place) remove((one) => one.start < place.end && one.end > place.start);
        return true;
      }
      if (event.key === "Escape" && cursor) { cursor = null; draw(); return true; }
      const at = KEYS.indexOf(event.key.toLowerCase());
      if (at < 0 || at >= round.labels.length) return false;
      add(round.labels[at]);
      return true;
    },
    // A tap on a button may end the selection first.
    onSelection() { const place = selected(); if (place) cursor = place; },
    focus: () => body.focus({ preventScroll: true }),
    help: [["← →", "go to the next word"], ["Shift ← →", "select several words"], ["Alt ← →", "move the end by a character"], ["1 – 9, A – Z", "mark the selection with a label"], ["Delete", "remove the marks of the selection"]],
  };
}

function controlOf(task) {
  const { type, labels, points } = round;
  const simple = (names) => names.map((label, at) => ({ value: label, label, key: KEYS[at] }));
  if (type === "classify") return choices(simple(labels), round.several);
  if (type === "rate" && points > 10) return number(points);
  if (type === "rate") return choices(Array.from({ length: points }, (_, at) => ({ value: `${at + 1}`, label: `${at + 1}`, key: `${(at + 1) % 10}` })), false);
  if (type === "compare") return compare(task);
  if (type === "rank") return rank(task);
  if (type === "span") return spans(task);
  if (type === "check") {
    const statement = named("Statement", content(task.statement)), source = named("Source", content(task.source));
    for (const one of [statement, source]) one.classList.add("card");
    return { ...choices(simple(labels), false), main: el("div", { class: "beside" }, statement, source) };
  }
  return written(task);
}

// --- what is shown

function show(instead = null) {
  const main = $("task"), task = hand[0];
  control = null;
  clearTimeout(draftTimer);
  problem("");
  timer.stop();
  $("dock").hidden = !task && !history.length;
  $("submit").hidden = $("skip").hidden = !task;
  $("undo").hidden = !history.length;
  $("controls").replaceChildren();
  if (!task) {
    const waiting = outbox().length;
    const words = { done: "All tasks are done", waiting: "Waiting for the server", null: "Loading" }[instead];
    const more = waiting ? `${plural(waiting, "label")} not sent yet.` : "";
    main.replaceChildren(el("div", { class: "centre" }, el("h2", {}, words), el("p", { class: "soft", id: instead === "done" ? "summary" : null }, more),
      instead === "done" ? el("button", { type: "button", onclick: refill }, "Look for further tasks") : null));
    if (progress) showSummary();
    main.focus({ preventScroll: true });
    return;
  }
  const question = el("h2", { class: "question", dir: "auto" });
  question.textContent = round.question;
  const parts = task.parts.map((part) => {
    const made = named(task.parts.length > 1 ? part.name : "", content(part));
    made.classList.add("card");
    return made;
  });
  control = controlOf(task);
  const children = [question, ...parts];
  if (task.votes) children.push(votes(task));
  if (control.main) children.push(control.main);
  main.replaceChildren(...children);
  $("controls").replaceChildren(...(control.dock ? [control.dock] : []));
  $("submit-key").textContent = control.submitKey ?? "Enter";
  const draft = [kept(key("draft", annotator, task.id)), task.draft].filter(Boolean).sort((one, other) => (one.at < other.at ? 1 : -1))[0];
  if (draft) control.set(draft.value);
  else if (task.prediction) {
    control.set(task.prediction.value);
    $("controls").prepend(el("p", { class: "suggested" }, `Suggested by the classifier${task.prediction.certainty === null ? "" : `, ${Math.round(task.prediction.certainty * 100)}% certain`}.`));
  }
  window.scrollTo(0, 0);
  (control.focus ?? (() => main.focus({ preventScroll: true })))();
  timer.start(draft?.seconds ?? 0);
}

function votes(task) {
  const names = new Map(task.answers.map((one, at) => [one.value, letter(at)]));
  const said = (value) => {
    if (Array.isArray(value) && !value.length) return "none";
    if (round.type === "span") return value.map((one) => `${one.label}: ${[...task.text].slice(one.start, one.end).join("")}`).join("\n");
    return [value].flat().map((one) => names.get(one) ?? String(one)).join(round.type === "rank" ? " > " : ", ");
  };
  const list = el("dl");
  for (const one of task.votes) {
    const name = el("dt"), value = el("dd", { dir: "auto" });
    name.textContent = one.annotator;
    value.textContent = said(one.value);
    list.append(name, value);
  }
  return el("section", { class: "votes", "aria-label": "Votes of the others" }, el("h3", {}, "The others disagree"), list);
}

function showGuideline() {
  // The only markup: made by the server of the round's guideline, without HTML, links and images of its own.
  $("guideline-text").innerHTML = round.guideline.html;
  $("version").textContent = round.guideline.version;
  $("show-guideline").hidden = !round.guideline.html;
}
function toggleGuideline(open = $("guideline").hidden) {
  if (!round?.guideline.html) return;
  $("guideline").hidden = !open;
  $("show-guideline").setAttribute("aria-expanded", String(open));
  keep(key("guideline"), open);
  if (open) { $("guideline").focus({ preventScroll: true }); notice(""); } else (control?.focus ?? (() => $("task").focus({ preventScroll: true })))();
}

// --- what an annotator does

function next() {
  show();
  if (hand.length < AHEAD) refill();
}
function done(task, value) {
  const { seconds } = timer;
  clearTimeout(draftTimer);
  hand.shift();
  finished.add(task.id);
  history.push({ task: task.id, kept: task, value, seconds });
  if (history.length > HISTORY) history.shift();
  keepHistory();
  forget(key("draft", annotator, task.id));
  return seconds;
}
function keepHistory() {
  keep(key("history", annotator), history.map(({ task, value, seconds }) => (JSON.stringify(value ?? "").length < 5000 ? { task, value, seconds } : { task, seconds })).slice(-50));
}
function submit() {
  const task = hand[0];
  if (!task || !control) return;
  const value = control.value();
  if (value === undefined) { problem(control.missing); return; }
  if (typeof value === "string" && [...value].length > LONGEST_TEXT) { problem(`The text is longer than ${LONGEST_TEXT.toLocaleString("en")} characters.`); return; }
  const seconds = done(task, value);
  put(task.id, "labelled", value, { seconds });
  next();
}
function skip(reason) {
  const task = hand[0];
  const seconds = done(task, undefined);
  put(task.id, "skipped", undefined, { seconds, reason: whole(reason) });
  next();
}
async function undo() {
  const last = history[history.length - 1];
  if (!last) return;
  let task = last.kept;
  if (!task) {
    try { task = await ask("/api/task", { annotator, task: last.task }); } catch { problem("The task is not in this browser any more: undo needs the server."); return; }
    if (history[history.length - 1] !== last) return;
  }
  history.pop();
  keepHistory();
  finished.delete(last.task);
  put(last.task, "withdrawn", undefined);
  hand = [task, ...hand.filter((one) => one.id !== task.id)];
  if (last.value !== undefined) keep(key("draft", annotator, task.id), { value: last.value, at: now(), seconds: last.seconds });
  show();
  speak("The last label was taken back.");
}

function openSkip() {
  if (!hand[0]) return;
  $("reason").value = "";
  $("reason-problem").textContent = "";
  $("skip-dialog").showModal();
  $("skip-dialog").querySelector("#reasons button").focus();
}
function openHelp() {
  const general = [["Enter", "submit"], ["u", "undo the last label"], ["s", "skip, with a reason"], ["g", "show or hide the guideline"], ["?", "show this list"]];
  const rows = [...(control?.help ?? []), ...general].flatMap(([keys, words]) => [el("dt", {}, el("kbd", {}, keys)), el("dd", {}, words)]);
  $("keys").replaceChildren(...rows);
  $("help").showModal();
  $("help-close").focus();
}

function onKey(event) {
  if (event.isComposing || document.querySelector("dialog[open]")) return;
  const target = event.target;
  const isText = target.matches?.("textarea, input[type=text], input[type=search]");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (!event.repeat) submit();
    return;
  }
  if (isText) {
    if (event.key === "Escape") { event.preventDefault(); $("task").focus({ preventScroll: true }); }
    return;
  }
  if (event.ctrlKey || event.metaKey) return;
  if (!$("guideline").hidden && event.key === "Escape") { event.preventDefault(); toggleGuideline(false); return; }
  if (hand[0] && control && !(event.altKey && !event.key.startsWith("Arrow")) && control.press(event)) { event.preventDefault(); return; }
  if (event.altKey) return;
  if (event.key === "Enter") {
    if (target.matches?.("button, a, summary")) return;
    event.preventDefault();
    if (!event.repeat) submit();
    return;
  }
  if (event.repeat) return;
  const act = { u: undo, s: openSkip, g: () => toggleGuideline(), "?": openHelp }[event.key.toLowerCase()];
  if (act) { event.preventDefault(); act(); }
}

// --- start

function choose() {
  show(); // ends the time of the task
  annotator = control = null;
  hand = [];
  $("progress").hidden = $("who").hidden = $("dock").hidden = true;
  $("saving").textContent = "";
  const buttons = round.annotators.map((one) => {
    const made = el("button", { type: "button", onclick: () => begin(one.name) });
    made.textContent = one.name;
    if (one.expert) made.append(" ", el("span", { class: "soft" }, "expert"));
    return made;
  });
  $("task").replaceChildren(el("div", { class: "centre" }, el("h2", {}, "Who are you?"), el("div", { class: "names" }, ...buttons)));
  buttons[0]?.focus();
}
function begin(name) {
  annotator = name;
  keep(key("annotator"), name);
  hand = [];
  finished = new Set();
  history = kept(key("history", name)) ?? [];
  $("who").textContent = name;
  $("who").setAttribute("aria-label", `You are ${name}. Change`);
  $("who").hidden = round.annotators.length < 2;
  const seen = kept(key("guideline"));
  if (round.guideline.html && (seen ?? window.innerWidth > 960)) { $("guideline").hidden = false; $("show-guideline").setAttribute("aria-expanded", "true"); }
  show();
  again();
}
async function start() {
  if (location.search) window.history.replaceState(null, "", "/"); // the token does not stay in the address
  try {
    await refresh();
  } catch {
    if (!closed) notice("The server does not answer. Start `raymill annotate label` again, then reload this page.");
    return;
  }
  document.title = `${round.name} · Label`;
  $("name").textContent = round.name;
  const last = kept(key("annotator")), names = round.annotators.map((one) => one.name);
  if (names.length === 1) begin(names[0]);
  else if (names.includes(last)) begin(last);
  else choose();
}

REASONS.forEach((words, at) => {
  $("reasons").append(el("button", { type: "button", onclick: () => { $("skip-dialog").close(); skip(words); } }, el("kbd", { "aria-hidden": "true" }, String(at + 1)), words));
});
$("skip-dialog").addEventListener("keydown", (event) => {
  const at = Number(event.key) - 1;
  if (event.target === $("reason")) return;
  if (REASONS[at]) { event.preventDefault(); $("skip-dialog").close(); skip(REASONS[at]); }
  else if (event.key.length === 1 && event.key !== " " && !event.ctrlKey && !event.metaKey) $("reason").focus(); // where the letter goes
});
$("skip-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const reason = $("reason").value.trim();
  if (!reason) { $("reason-problem").textContent = "Give a reason."; $("reason").focus(); return; }
  $("skip-dialog").close();
  skip(reason);
});
$("skip-cancel").addEventListener("click", () => $("skip-dialog").close());
$("help-close").addEventListener("click", () => $("help").close());
for (const id of ["skip-dialog", "help"]) $(id).addEventListener("close", () => (control?.focus ?? (() => $("task").focus({ preventScroll: true })))());
$("submit").addEventListener("click", submit);
$("skip").addEventListener("click", openSkip);
$("undo").addEventListener("click", undo);
$("who").addEventListener("click", choose);
$("show-guideline").addEventListener("click", () => toggleGuideline());
$("hide-guideline").addEventListener("click", () => toggleGuideline(false));
$("show-help").addEventListener("click", openHelp);
document.addEventListener("keydown", onKey);
document.addEventListener("selectionchange", () => control?.onSelection?.());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) timer.stop();
  else if (control) { timer.resume(); if (isOffline) again(); }
});
window.addEventListener("online", again);
window.addEventListener("beforeunload", (event) => { if (unkept.size) event.preventDefault(); });
start();
