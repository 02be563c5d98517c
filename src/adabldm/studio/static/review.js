// The room Review: a wall of details that draws only what is seen, and one key for each decision.
import { $, ask, attempt, element, given, say, scoreList, typing } from "./common.js";

const page = given();
const GAP_ROWS = 2; // rows that are drawn above and below what is seen
const LINGER = 90; // milliseconds that a tile must be near before its picture is loaded, so that fast scrolling loads none
const WORDS = { keep: "kept", reject: "rejected", "": "" };
const state = { folder: "", found: null, shown: [], place: 0, undo: [], tiles: new Map(), columns: 1, side: 150 };
const wall = $("#wall");
const inner = $("#inner");
const query = (values) => new URLSearchParams(values).toString();

// ---- the folder ---------------------------------------------------------------------------------------------------

async function load(folder) {
  empty(folder); // no key decides on an image of the folder before
  const found = await attempt(() => ask(`/studio/review/folder?${query({ folder })}`));
  if (!found || state.folder !== folder) return;
  Object.assign(state, { found, undo: [], place: 0 });
  $("#type").replaceChildren(element("option", { value: "", textContent: "all types" }), ...found.types.map((name, place) => element("option", { value: place, textContent: name })));
  filter();
}

/** An empty wall for a folder that is about to be read. */
function empty(folder) {
  Object.assign(state, { folder, found: null, shown: [], undo: [], place: 0 });
  clearTimeout(state.timer);
  $("#undo").disabled = true;
  $("#count").textContent = "The images are listed …";
  layout();
  choose(0);
}

function filter() {
  const { found } = state;
  if (!found) return;
  const type = $("#type").value, decision = $("#decision").value;
  const low = $("#low").value === "" ? -Infinity : Number($("#low").value);
  const high = $("#high").value === "" ? Infinity : Number($("#high").value);
  const wanted = { all: () => true, none: (one) => one === "", keep: (one) => one === "keep", reject: (one) => one === "reject" }[decision];
  const { seam, contrast } = found.scores;
  state.shown = found.index.map((_, place) => place).filter((place) =>
    (type === "" || found.type[place] === Number(type)) && wanted(found.decision[place])
    && (contrast[place] ?? Infinity) >= low && (seam[place] ?? -Infinity) <= high);
  const [field, way] = $("#sort").value.split(":");
  if (field !== "index") {
    const values = found.scores[field];
    const sign = way === "down" ? -1 : 1;
    state.shown.sort((first, second) => sign * ((values[first] ?? 0) - (values[second] ?? 0)) || first - second);
  }
  state.place = 0;
  wall.scrollTop = 0;
  count();
  layout();
  choose(0);
}

function count() {
  const { found, shown } = state;
  const number = (word) => found.decision.filter((one) => one === word).length;
  $("#count").textContent = `${shown.length.toLocaleString("en")} of ${found.index.length.toLocaleString("en")} images shown; `
    + `${number("keep").toLocaleString("en")} kept, ${number("reject").toLocaleString("en")} rejected, ${number("").toLocaleString("en")} undecided.`;
}

// ---- the wall -----------------------------------------------------------------------------------------------------

function layout() {
  const width = wall.clientWidth;
  const wanted = width < 500 ? 112 : 152;
  state.columns = Math.max(2, Math.floor(width / wanted));
  state.side = width / state.columns;
  inner.style.height = `${Math.ceil(state.shown.length / state.columns) * state.side}px`;
  for (const tile of state.tiles.values()) drop(tile);
  state.tiles.clear();
  draw();
}

function draw() {
  const { columns, side, shown, tiles } = state;
  const first = Math.max(0, Math.floor(wall.scrollTop / side) - GAP_ROWS) * columns;
  const last = Math.min(shown.length, (Math.ceil((wall.scrollTop + wall.clientHeight) / side) + GAP_ROWS) * columns);
  for (const [place, tile] of tiles) if (place < first || place >= last) { drop(tile); tiles.delete(place); }
  for (let place = first; place < last; place++) if (!tiles.has(place)) tiles.set(place, makeTile(place));
}

/** Take a tile away; a picture that was not loaded yet is not asked for any more. */
function drop(tile) {
  clearTimeout(Number(tile.dataset.timer));
  $("img", tile).removeAttribute("src");
  tile.remove();
}

function makeTile(place) {
  const { found, shown, columns, side } = state;
  const own = shown[place];
  const index = found.index[own];
  const image = element("img", { alt: "", decoding: "async" });
  const address = `/studio/review/tile?${query({ folder: state.folder, index, version: found.version })}`;
  const tile = element("div", { className: "tile", role: "option", id: `tile-${place}`, "aria-selected": String(place === state.place) },
    element("div", {}, image, element("span", { className: "mark", hidden: true }), element("span", { className: "number", textContent: index })));
  Object.assign(tile.style, { width: `${side}px`, height: `${side}px`, left: `${(place % columns) * side}px`, top: `${Math.floor(place / columns) * side}px` });
  tile.addEventListener("click", () => choose(place));
  tile.dataset.timer = setTimeout(() => { image.src = address; }, LINGER);
  mark(tile, own);
  inner.append(tile);
  return tile;
}

function mark(tile, own) {
  const { found } = state;
  const decision = found.decision[own];
  const word = $(".mark", tile);
  word.hidden = !decision;
  word.className = `mark ${decision}`;
  word.textContent = WORDS[decision];
  tile.classList.toggle("reject", decision === "reject");
  tile.setAttribute("aria-label", `Image ${found.index[own]}, ${found.types[found.type[own]]}${decision ? `, ${WORDS[decision]}` : ""}`);
}

let waiting = false;
wall.addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}, { passive: true });
new ResizeObserver(() => state.found && layout()).observe(wall);

// ---- the chosen image ---------------------------------------------------------------------------------------------

function choose(place) {
  const { shown, tiles, columns, side } = state;
  $("#side").hidden = !shown.length;
  for (const name of ["keep", "reject", "next"]) $(`#${name}`).disabled = !shown.length;
  if (!shown.length) return;
  tiles.get(state.place)?.setAttribute("aria-selected", "false");
  state.place = Math.min(shown.length - 1, Math.max(0, place));
  const top = Math.floor(state.place / columns) * side;
  if (top < wall.scrollTop) wall.scrollTop = top;
  else if (top + side > wall.scrollTop + wall.clientHeight) wall.scrollTop = top + side - wall.clientHeight;
  draw();
  tiles.get(state.place)?.setAttribute("aria-selected", "true");
  wall.setAttribute("aria-activedescendant", `tile-${state.place}`);
  clearTimeout(state.timer);
  state.timer = setTimeout(show, 60); // keys that repeat do not load every image on the way
}

async function show() {
  const own = state.shown[state.place], wall = state.found;
  if (own === undefined) return;
  const index = wall.index[own];
  const defect = wall.types[wall.type[own]];
  const asked = { folder: state.folder, index };
  $("#side-title").textContent = `Image ${index}: ${defect}`;
  showDetail();
  $("#whole").href = `/studio/review/whole?${query(asked)}`;
  $("#whole").setAttribute("aria-label", `Image ${index} as a whole, in a new tab`);
  $("#before-figure").hidden = true;
  $("#before").src = `/studio/review/source?${query({ ...asked, data: $("#data").value })}`;
  const found = await attempt(() => ask(`/studio/review/record?${query(asked)}`));
  if (!found || state.found !== wall || state.shown[state.place] !== own) return;
  $("#scores").replaceChildren(scoreList(found.words));
  const rows = Object.entries(found.record).filter(([, value]) => value !== "" && typeof value !== "object" || Array.isArray(value) && value.length);
  $("#record").replaceChildren(element("tbody", {}, ...rows.map(([name, value]) => element("tr", {},
    element("th", { scope: "row", textContent: name.replaceAll("_", " ") }),
    element("td", { className: "figure", textContent: Array.isArray(value) ? value.map((one) => one.reason ?? one).join("; ") : String(value) })))));
  decisionWords(found.decision);
  showExamples(defect);
}

function decisionWords(decision) {
  const words = { keep: "Kept", reject: "Rejected" }[decision?.decision];
  const why = decision?.rule ? ` by a rule: ${decision.rule}` : decision?.note ? `: ${decision.note}` : "";
  $("#decision-words").textContent = words ? `${words}${why}.` : "No decision yet.";
}

$("#before").addEventListener("load", () => { $("#before-figure").hidden = false; });
function showDetail() {
  if (!state.shown.length) return;
  const index = state.found.index[state.shown[state.place]];
  $("#after").src = `/studio/review/detail?${query({ folder: state.folder, index, outlined: $("#outline").checked })}`;
}
$("#outline").addEventListener("change", showDetail);

async function showExamples(defect) {
  const data = $("#data").value;
  const key = `${data} ${defect}`;
  if (state.examplesOf === key) return;
  state.examplesOf = key;
  $("#examples-title").textContent = `Real examples of ${defect}`;
  $("#examples").replaceChildren();
  $("#examples-hint").textContent = data ? "Looking for them …" : "Choose a real data set to compare with.";
  if (!data) return;
  const found = await ask(`/studio/paint/examples?${query({ data, defect })}`).catch((error) => { say(error.message, "bad"); return { examples: [] }; });
  if (state.examplesOf !== key) return;
  $("#examples-hint").textContent = found.examples.length ? "" : "This data set has none.";
  $("#examples").replaceChildren(...found.examples.slice(0, 12).map((one) => element("li", {}, element("span", { className: "thumb" },
    element("img", { loading: "lazy", alt: `Real ${defect} in ${one.name}`, title: one.name, src: `/studio/paint/example?${query({ data, defect, number: one.number, version: one.version })}` })))));
}

// ---- decisions ----------------------------------------------------------------------------------------------------

async function decide(decision) {
  const { shown, found, place } = state;
  const own = shown[place];
  if (own === undefined) return;
  const before = found.decision[own];
  set(own, decision);
  const step = { own, before, former: null };
  state.undo.push(step);
  $("#undo").disabled = false;
  choose(place + 1);
  if ((await send(own, () => ({ decision }), step)) || state.found !== found) return;
  set(own, before); // it was not written: the page says what the disk holds
  state.undo = state.undo.filter((one) => one.own !== own);
}

function set(own, decision) {
  state.found.decision[own] = decision;
  const place = state.shown.indexOf(own);
  const tile = state.tiles.get(place);
  if (tile) mark(tile, own);
  count();
}

let queue = Promise.resolve(); // decisions are written one after the other, in the order in which they were made
function send(own, made, step) { // what is written may depend on what was there, which an earlier answer tells
  const { folder, found } = state;
  const write = () => ask("/studio/review/decide", { method: "POST", json: { folder, indices: [found.index[own]], ...made() } });
  const sent = queue.then(() => attempt(write)).then((answer) => {
    if (answer && step) [step.former] = answer.before;
    return answer;
  });
  queue = sent;
  return sent;
}

async function undo() {
  const { found } = state;
  const step = state.undo.pop();
  if (!step) return;
  $("#undo").disabled = !state.undo.length;
  const now = state.found.decision[step.own];
  set(step.own, step.before);
  const place = state.shown.indexOf(step.own);
  if (place >= 0) choose(place);
  const whole = () => {
    const { decision, note = null, rule = null } = step.former ?? { decision: step.before || "undecided" };
    return { decision, note, rule };
  };
  if (!(await send(step.own, whole)) && state.found === found) set(step.own, now);
}

function nextOpen() {
  const { shown, found, place } = state;
  for (let next = place + 1; next < shown.length; next++) if (!found.decision[shown[next]]) return choose(next);
  return choose(place + 1);
}

$("#keep").addEventListener("click", () => decide("keep"));
$("#reject").addEventListener("click", () => decide("reject"));
$("#next").addEventListener("click", nextOpen);
$("#undo").addEventListener("click", undo);

document.addEventListener("keydown", (event) => {
  if (typing(event) || event.altKey || !state.found) return;
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) { if (key === "z") { event.preventDefault(); undo(); } return; }
  const rows = Math.max(1, Math.floor(wall.clientHeight / state.side));
  const moves = { arrowleft: -1, arrowright: 1, arrowup: -state.columns, arrowdown: state.columns, p: -1, pageup: -rows * state.columns, pagedown: rows * state.columns };
  if (key in moves) choose(state.place + moves[key]);
  else if (key === "home") choose(0);
  else if (key === "end") choose(state.shown.length - 1);
  else if (key === "k") decide("keep");
  else if (key === "r") decide("reject");
  else if (key === "n") nextOpen();
  else if (key === "u") undo();
  else if (key === "o") { $("#outline").checked = !$("#outline").checked; showDetail(); } else return;
  event.preventDefault();
});

// ---- start --------------------------------------------------------------------------------------------------------

const chosen = new URLSearchParams(location.search).get("folder") ?? page.chosen;
$("#folder").replaceChildren(...page.folders.map((one) => element("option", { value: one.path, textContent: one.label, selected: one.path === chosen })));
$("#data").replaceChildren(...page.data.map((one) => element("option", { value: one.path, textContent: one.label })), element("option", { value: "", textContent: "none" }));
$("#folder").addEventListener("change", (event) => load(event.target.value));
$("#data").addEventListener("change", () => { state.examplesOf = null; show(); });
for (const name of ["type", "decision", "sort", "low", "high"]) $(`#${name}`).addEventListener("input", filter);
if (page.folders.length) load($("#folder").value);
else {
  $("#empty").hidden = false;
  $("#filter").hidden = $("#review").hidden = true;
}
