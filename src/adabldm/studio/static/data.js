// The room Data: what a data set holds, its problems, and masks that are painted or corrected.
import { $, $$, ask, attempt, bitmap, element, given, say, typing } from "./common.js";
import { MaskCanvas, maskOf } from "./mask-canvas.js";

const page = given();
const MORE = 48;
const state = { data: "", found: null, shown: [], drawn: 0, open: null, loads: 0, opens: 0 };
const query = (values) => new URLSearchParams(values).toString();
const canvas = new MaskCanvas($("#canvas"), {
  label: "Picture and mask. Arrow keys move the brush, the space bar puts it down and lifts it.",
  onChange: maskChanged,
  onTool: (tool) => $$("[data-tool]").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.tool === tool))),
});

// ---- the folder ---------------------------------------------------------------------------------------------------

async function load(data, keep = false) {
  const turn = ++state.loads;
  state.data = data;
  if (!keep) empty();
  const found = await attempt(() => ask(`/studio/data/pictures?${query({ data })}`));
  if (!found || state.loads !== turn) return;
  state.found = found;
  $("#layout").textContent = `Layout: ${found.title}. ${found.pictures.length.toLocaleString("en")} pictures.`
    + (found.writable ? "" : " This layout keeps its outlines in annotation files, so masks can be looked at here, but not changed.");
  const lacking = found.pictures.filter((one) => one.missing).length;
  const options = [["all", `all (${found.pictures.length})`], ["missing", `without a mask (${lacking})`], ["good", "good"], ...found.types.map((name) => [`type:${name}`, name])];
  const before = $("#show").value;
  $("#show").replaceChildren(...options.map(([value, textContent]) => element("option", { value, textContent })));
  if (keep && options.some(([value]) => value === before)) $("#show").value = before;
  else if (lacking) $("#show").value = "missing";
  else if (found.types.length) $("#show").value = `type:${found.types[0]}`;
  $("#types").replaceChildren(...found.types.map((value) => element("option", { value })));
  filter();
  inspect(data, turn);
}

/** Nothing of the data set before is left, so that nothing of it is opened as a picture of the next one. */
function empty() {
  closeEditor();
  Object.assign(state, { found: null, shown: [], drawn: 0 });
  for (const name of ["#pictures", "#rows", "#problems", "#notes"]) $(name).replaceChildren();
  $("#problems-card").hidden = $("#notes-card").hidden = $("#more").hidden = true;
  $("#layout").textContent = $("#reading").textContent = "";
}

async function inspect(data, turn) {
  $("#rows").replaceChildren();
  $("#problems-card").hidden = $("#notes-card").hidden = true;
  $("#reading").textContent = "Every picture and mask is read …";
  const found = await attempt(() => ask(`/studio/data/inspect?${query({ data })}`));
  if (state.loads !== turn) return;
  $("#reading").textContent = found ? (found.problems.length ? "" : "No problems found.") : "";
  if (!found) return;
  const span = (range) => (range ? (range[0] === range[1] ? `${range[0]}` : `${range[0]}–${range[1]}`) : "–");
  const head = element("thead", {}, element("tr", {}, ...["Part", "Type", "Pictures", "Masks", "Size (px)", "Mask area (px)"].map((text, place) =>
    element("th", { scope: "col", textContent: text, className: place > 1 ? "number" : "" }))));
  const body = element("tbody", {}, ...found.rows.map((row) => element("tr", {},
    ...[row.split, row.defect].map((text) => element("td", { textContent: text })),
    ...[row.images, row.masks || "–", row.widths ? `${span(row.widths)} × ${span(row.heights)}` : "–", span(row.areas)].map((text) => element("td", { className: "number", textContent: text })))));
  $("#rows").replaceChildren(head, body);
  $("#problems-card").hidden = !found.problems.length;
  $("#problems-title").textContent = `Problems (${found.problems.length})`;
  $("#problems").replaceChildren(...found.problems.slice(0, 200).map((one) => element("li", { className: one.picture ? "problem" : "" },
    one.picture ? tile(one.picture) : null, element("p", { textContent: one.text }))));
  $("#notes-card").hidden = !found.notes.length;
  $("#notes").replaceChildren(...found.notes.map((text) => element("li", { textContent: text })));
}

function tile(name, caption = null) {
  const image = element("img", { loading: "lazy", alt: "", src: `/studio/data/tile?${query({ data: state.data, name, stamp: state.stamp ?? 0 })}` });
  image.addEventListener("error", () => { image.hidden = true; });
  const button = element("button", { type: "button", title: name, "aria-label": `Open ${name}` }, element("span", { className: "thumb" }, image),
    caption ? element("span", { className: "small", textContent: caption }) : null);
  button.addEventListener("click", () => openPicture(name));
  return button;
}

function filter() {
  if (!state.found) return;
  const wanted = $("#show").value;
  state.shown = state.found.pictures.filter((one) => wanted === "all" || (wanted === "missing" && one.missing)
    || (wanted === "good" && !one.types.length) || (wanted.startsWith("type:") && one.types.includes(wanted.slice(5))));
  state.drawn = 0;
  $("#pictures").replaceChildren();
  more();
}

function more() {
  const next = state.shown.slice(state.drawn, state.drawn + MORE);
  state.drawn += next.length;
  $("#pictures").append(...next.map((one) => element("li", {}, tile(one.name,
    `${one.name.split("/").pop()} · ${one.types.join(", ") || "good"}${one.missing ? " · no mask" : ""}`))));
  if (!state.shown.length) $("#pictures").append(element("li", { className: "hint", textContent: "No picture of this kind." }));
  $("#more").hidden = state.drawn >= state.shown.length;
}

// ---- one picture --------------------------------------------------------------------------------------------------

async function openPicture(name) {
  const one = state.found?.pictures.find((own) => own.name === name);
  if (!one) return;
  const turn = ++state.opens;
  const picture = await attempt(() => bitmap(`/studio/data/picture?${query({ data: state.data, name })}`));
  if (!picture || state.opens !== turn) return;
  state.open = one;
  $("#editor").hidden = false;
  $("#editor-title").textContent = name;
  $("#defect").value = one.types[0] ?? "";
  for (const one of $$(".of-writing")) one.hidden = !state.found.writable;
  $("#defect-label").textContent = state.found.writable ? "Type of the defect" : "Masks of the type";
  canvas.setTool(state.found.writable ? "brush" : "move");
  canvas.resize();
  canvas.setPicture(picture);
  const shorter = Math.min(picture.width, picture.height);
  $("#size").max = Math.max(40, Math.round(shorter / 2));
  setSize(Math.max(2, Math.round(shorter / 30)));
  await loadMask();
  $("#editor").scrollIntoView({ block: "nearest" });
}

async function loadMask() {
  const { open } = state;
  const defect = $("#defect").value.trim();
  if (!open?.types.includes(defect)) return;
  const answer = await fetch(`/studio/data/mask?${query({ data: state.data, name: open.name, defect })}`);
  if (answer.status !== 200) return;
  const image = await createImageBitmap(await answer.blob());
  if (state.open !== open || $("#defect").value.trim() !== defect) return;
  if (image.width !== canvas.width || image.height !== canvas.height) {
    say(`The mask has ${image.width} × ${image.height} pixels, the picture ${canvas.width} × ${canvas.height}: paint a new one.`, "bad");
    return;
  }
  canvas.setPicture(canvas.picture, maskOf(image));
}

function closeEditor() {
  state.opens += 1;
  state.open = null;
  $("#editor").hidden = true;
}

function maskChanged() {
  const area = canvas.area;
  $("#undo").disabled = !canvas.done.length;
  $("#redo").disabled = !canvas.undone.length;
  $("#clear").disabled = !area;
  $("#mask-words").textContent = area ? `The mask covers ${area.toLocaleString("en")} pixels.`
    : state.found?.writable ? "No mask yet: paint all pixels of the defect." : "There is no mask of this type.";
  saveWords();
}

function saveWords() {
  const { open, found } = state;
  const defect = $("#defect").value.trim();
  const can = Boolean(open && found?.writable && defect && canvas.area);
  $("#save").disabled = !can;
  if (!open) return;
  const moves = !open.types.length && found.layout !== "ksdd2";
  $("#save-words").textContent = !found.writable ? "The masks of this layout cannot be changed here."
    : moves ? `Saving moves the picture out of the good ones${defect ? `, to ${defect}` : ""}, and a fit learns from it.`
      : "Saving writes the mask into the data set; a mask that it replaces is kept in a hidden folder there.";
}

async function save() {
  const { open, data } = state, defect = $("#defect").value.trim(); // as they are now, whatever is opened meanwhile
  $("#save").disabled = true;
  const blob = await canvas.png();
  const mask = await new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1]);
    reader.readAsDataURL(blob);
  });
  const order = { data, name: open.name, defect, mask };
  const saved = await attempt(() => ask("/studio/data/mask", { method: "POST", json: order }));
  saveWords();
  if (!saved) return;
  say(saved.moved ? `Saved as ${saved.mask}; the picture is now ${saved.name}.` : `Saved as ${saved.mask}.`, "good");
  state.stamp = Date.now(); // the tiles are drawn anew
  if (state.open === open) closeEditor();
  if (state.data === data) load(data, true);
}

function setSize(size) {
  canvas.size = Number(size);
  $("#size").value = size;
  $("#size-shown").textContent = `${size} px`;
}
$("#size").addEventListener("input", (event) => setSize(event.target.value));
$$("[data-tool]").forEach((button) => button.addEventListener("click", () => canvas.setTool(button.dataset.tool)));
for (const name of ["undo", "redo", "clear", "fit"]) $(`#${name}`).addEventListener("click", () => canvas[name]());
$("#in").addEventListener("click", () => canvas.zoom(1.4));
$("#out").addEventListener("click", () => canvas.zoom(1 / 1.4));
$("#close").addEventListener("click", closeEditor);
$("#save").addEventListener("click", save);
$("#defect").addEventListener("input", saveWords);
$("#defect").addEventListener("change", () => { if (!canvas.done.length) loadMask(); });
$("#show").addEventListener("change", filter);
$("#more").addEventListener("click", more);
$("#data").addEventListener("change", (event) => load(event.target.value));
document.addEventListener("keydown", (event) => {
  if (typing(event) || !state.open || !state.found.writable) return;
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && key === "z") { event.preventDefault(); event.shiftKey ? canvas.redo() : canvas.undo(); }
  const tool = { b: "brush", e: "eraser", h: "move" }[key];
  if (tool && !event.ctrlKey && !event.metaKey) canvas.setTool(tool);
});

// ---- start --------------------------------------------------------------------------------------------------------

const chosen = new URLSearchParams(location.search).get("data") ?? page.chosen;
$("#data").replaceChildren(...page.data.map((one) => element("option", { value: one.path, textContent: one.label, selected: one.path === chosen })));
if (page.data.length) load($("#data").value);
else $("#layout").textContent = "No data set was found: start the studio with --data and your folder.";
