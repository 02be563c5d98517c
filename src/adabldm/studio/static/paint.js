// The room Paint: a mask is painted on a picture, variants are made, compared and kept.
import { $, $$, ask, attempt, bitmap, element, given, say, scoreList, sliders, typing } from "./common.js";
import { MaskCanvas, maskOf } from "./mask-canvas.js";

const FREE = "\u0000free";
const page = given();
const state = { data: "", picture: null, run: null, example: null, examples: [], bank: [], variants: [], chosen: 0, busy: null, shapeTurn: 0 };
const turns = { picture: 0, examples: 0, shape: 0 }; // count what was asked for: an answer to anything but the last is not shown
const canvas = new MaskCanvas($("#canvas"), {
  label: "Picture and mask. Arrow keys move the brush, the space bar puts it down and lifts it.",
  onChange: maskChanged,
  onShape: shapeChanged,
  onTool: (tool) => $$("[data-tool]").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.tool === tool))),
});
canvas.onSplit = (share) => { $("#split").value = Math.round(share * 100); splitShown(); };

function splitShown() {
  const value = Number($("#split").value);
  const words = value === 0 ? "after" : value === 100 ? "before" : "before | after";
  $("#split-shown").textContent = words;
  $("#split").setAttribute("aria-valuetext", words);
}

// ---- pictures -----------------------------------------------------------------------------------------------------

const query = (values) => new URLSearchParams(values).toString();

async function chooseData(data) {
  state.data = data;
  clearExamples();
  const found = await attempt(() => ask(`/studio/paint/pictures?${query({ data })}`));
  if (!found || state.data !== data) return;
  const strip = $("#strip");
  strip.replaceChildren(...found.names.map((name) => {
    const image = element("img", { loading: "lazy", alt: "", src: `/studio/paint/thumb?${query({ data, name })}` });
    const button = element("button", { type: "button", title: name, "aria-label": `Picture ${name}`, "aria-pressed": "false" }, image);
    button.dataset.data = data;
    button.addEventListener("click", () => choosePicture(data, name));
    return element("li", {}, button);
  }));
  if (!found.names.length) strip.append(element("li", { className: "hint", textContent: "No good pictures in this folder." }));
  loadExamples();
  const first = $("button", strip);
  if (first && !state.picture) first.click();
}

/** Show a picture, with a mask if one is given and fits; tells whether it is still the one that was chosen last. */
async function choosePicture(data, name, mask = null) {
  const turn = ++turns.picture;
  const picture = await attempt(() => bitmap(`/studio/paint/picture?${query({ data, name })}`));
  if (!picture || turns.picture !== turn) return false;
  $$("#strip button").forEach((one) => one.setAttribute("aria-pressed", String(one.title === name && one.dataset.data === data)));
  state.picture = { data, name };
  state.variants = [];
  $("#hollow").hidden = true;
  canvas.setPicture(picture, mask?.length === picture.width * picture.height ? mask : null);
  const shorter = Math.min(picture.width, picture.height);
  $("#size").max = Math.max(40, Math.round(shorter / 2));
  setSize(Math.max(3, Math.round(shorter / 22)));
  $("#result").hidden = true;
  return true;
}

async function upload(file) {
  if (!file) return;
  const place = await attempt(() => ask("/studio/paint/uploads", { method: "POST", body: file }));
  if (!place || !(await choosePicture(place.data, place.name))) return;
  say("The picture was loaded.", "good");
  loadExamples();
}

$("#file").addEventListener("change", (event) => { upload(event.target.files[0]); event.target.value = ""; });
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) { event.preventDefault(); upload(file); }
});
for (const name of ["dragenter", "dragover"]) $("#canvas").addEventListener(name, (event) => { event.preventDefault(); $("#canvas").classList.add("drop"); });
for (const name of ["dragleave", "drop"]) $("#canvas").addEventListener(name, () => $("#canvas").classList.remove("drop"));
$("#canvas").addEventListener("drop", (event) => { event.preventDefault(); upload(event.dataTransfer.files[0]); });

// ---- run, type and examples ---------------------------------------------------------------------------------------

async function chooseRun(path) {
  state.run = null; // nothing is made until its types are known
  ready();
  const run = await attempt(() => ask(`/studio/paint/run?${query({ run: path })}`));
  if (!run || $("#run").value !== path) return;
  state.run = { path, ...run };
  const options = run.defects.map((name) => element("option", { value: name, textContent: name }));
  const rendered = run.method === "rendering"; // nothing but the type can be chosen
  $("#defect").replaceChildren(...options, ...(rendered ? [] : [element("option", { value: FREE, textContent: "Free prompt …" })]));
  for (const one of $$(".of-networks")) one.hidden = rendered;
  $("#rendered-hint").hidden = !rendered;
  chooseDefect();
  ready();
}

function chooseDefect() {
  if (!state.run) return;
  const free = $("#defect").value === FREE;
  $("#prompt-field").hidden = $("#named").hidden = $("#named-label").hidden = !free;
  if (free) {
    if (!$("#prompt").value) $("#prompt").value = `${state.run.object}, a ${state.run.object} with a `;
    if (!$("#named").value) $("#named").value = "defect";
  }
  loadExamples();
}

const free = () => $("#defect").value === FREE;
const defectName = () => (free() ? $("#named").value.trim() || "defect" : $("#defect").value);

/** Forget the examples of what was chosen before. */
function clearExamples() {
  Object.assign(state, { example: null, examples: [], bank: [] });
  $("#examples").replaceChildren();
  return ++turns.examples;
}

async function loadExamples() {
  if (!state.run) return;
  const asked = { data: state.data, defect: defectName() };
  const turn = clearExamples();
  $("#examples-hint").textContent = "Looking for real examples …";
  let found = { examples: [], others: [] };
  if (!free() && !asked.data.startsWith("samples")) {
    found = await ask(`/studio/paint/examples?${query(asked)}`).catch((error) => { say(error.message, "bad"); return found; });
  }
  if (turns.examples !== turn) return;
  state.examples = found.examples;
  const none = !found.examples.length;
  state.bank = none ? found.others.map((one) => ({ defect: one })) : [];
  $("#real-shape").disabled = none && !state.bank.length;
  $("#shape-hint").textContent = "A click lays a shape on the picture; another click takes the next one. "
    + (state.bank.length ? `There is no real mask of this type, so real masks of other types are taken: ${found.others.join(", ")}.`
      : none ? "This data set has no real masks." : "");
  $("input[name=begin][value=real]").disabled = none;
  if (none) $("input[name=begin][value=noise]").checked = true;
  else if (!state.noise) $("input[name=begin][value=real]").checked = true;
  $("#examples-hint").textContent = none
    ? "This data set has no real example of this type, so the defect is drawn from noise."
    : "Choose one, or leave it to the studio: each variant then begins from another one that fits the mask.";
  $("#examples").replaceChildren(...found.examples.map((one) => {
    const image = element("img", { loading: "lazy", alt: "", src: `/studio/paint/example?${query({ ...asked, number: one.number, version: one.version })}` });
    const button = element("button", { type: "button", title: one.name, "aria-label": `Real example ${one.name}`, "aria-pressed": "false" }, image);
    button.addEventListener("click", () => chooseExample(state.example === one.number ? null : one.number));
    button.dataset.number = one.number;
    return element("li", {}, button);
  }));
  beginChanged();
}

function chooseExample(number) {
  state.example = number;
  $$("#examples button").forEach((one) => one.setAttribute("aria-pressed", String(Number(one.dataset.number) === number)));
}

const begin = () => $("input[name=begin]:checked").value;
function beginChanged() {
  $("#examples-field").hidden = begin() === "noise" && Boolean(state.examples?.length);
  $("#change-field").hidden = begin() === "noise";
}
$$("input[name=begin]").forEach((one) => one.addEventListener("change", () => { state.noise = begin() === "noise"; beginChanged(); }));

// ---- shapes -------------------------------------------------------------------------------------------------------

async function layShape(address, extra, scale = 1) {
  if (!canvas.picture) return say("Choose a picture first.", "bad");
  const picture = turns.picture, turn = ++turns.shape;
  const mask = await attempt(() => bitmap(address));
  if (!mask || turns.picture !== picture || turns.shape !== turn) return undefined;
  if (canvas.shape) canvas.dropShape(); // another click takes the next one
  const longest = Math.max(mask.width, mask.height);
  const room = 0.9 * Math.min(canvas.width, canvas.height) / longest;
  canvas.setShape({ mask: maskOf(mask), width: mask.width, height: mask.height, scale: Math.min(scale, Math.max(room, 0.1)), ...extra });
  canvas.canvas.focus();
  return undefined;
}

$("#real-shape").addEventListener("click", () => {
  if (state.bank.length) {
    const turn = state.shapeTurn % state.bank.length;
    const { defect } = state.bank[turn];
    const number = Math.floor(state.shapeTurn / state.bank.length);
    state.shapeTurn += 1;
    layShape(`/studio/paint/example-mask?${query({ data: state.data, defect, number, around: true })}`, {});
    return;
  }
  if (!state.examples?.length) return;
  const number = state.example ?? state.examples[state.shapeTurn % state.examples.length].number;
  state.shapeTurn += 1;
  layShape(`/studio/paint/example-mask?${query({ data: state.data, defect: defectName(), number })}`, { example: number });
});
$$("[data-random]").forEach((button) => button.addEventListener("click", () => {
  const shorter = Math.min(canvas.width, canvas.height);
  const share = { blob: 0.22, scratch: 0.4, polygon: 0.25 }[button.dataset.random];
  const size = Math.max(6, Math.round(shorter * share));
  layShape(`/studio/paint/random-mask?${query({ kind: button.dataset.random, size, seed: Math.floor(Math.random() * 1e9) })}`, {});
}));

function shapeChanged(shape) {
  $("#shape-bar").hidden = !shape;
  if (!shape) return;
  const degrees = ((shape.angle * 180 / Math.PI + 540) % 360) - 180;
  $("#turn").value = Math.round(degrees);
  $("#scale").value = Math.round(shape.scale * 100);
}
$("#turn").addEventListener("input", (event) => canvas.changeShape({ angle: event.target.value * Math.PI / 180 }));
$("#scale").addEventListener("input", (event) => canvas.changeShape({ scale: event.target.value / 100 }));
$("#place").addEventListener("click", () => canvas.placeShape());
$("#drop").addEventListener("click", () => canvas.dropShape());

// ---- tools --------------------------------------------------------------------------------------------------------

function setSize(size) {
  canvas.size = Number(size);
  $("#size").value = size;
  $("#size-shown").textContent = `${size} px`;
  canvas.draw();
}
$("#size").addEventListener("input", (event) => setSize(event.target.value));
$$("[data-tool]").forEach((button) => button.addEventListener("click", () => { showPainting(); canvas.setTool(button.dataset.tool); }));
$("#undo").addEventListener("click", () => canvas.undo());
$("#redo").addEventListener("click", () => canvas.redo());
$("#clear").addEventListener("click", () => canvas.clear());
$("#in").addEventListener("click", () => canvas.zoom(1.4));
$("#out").addEventListener("click", () => canvas.zoom(1 / 1.4));
$("#fit").addEventListener("click", () => canvas.fit());

function maskChanged() {
  const area = canvas.area;
  const empty = canvas.isEmpty;
  $("#undo").disabled = !canvas.done.length && !canvas.shape;
  $("#redo").disabled = !canvas.undone.length;
  $("#clear").disabled = empty;
  $("#compare-bar").hidden = true;
  const share = 100 * area / Math.max(1, canvas.width * canvas.height);
  $("#mask-words").textContent = empty ? "The mask is empty: paint where the defect goes, or lay a shape on the picture."
    : canvas.shape && !area ? "A shape lies on the picture: drag it, turn it and scale it. It is placed when you go on."
    : `The mask covers ${area.toLocaleString("en")} of the picture’s pixels (${share < 0.1 ? "under 0.1" : share.toFixed(1)} %).`;
  ready();
}

function ready() {
  const can = state.run && state.picture && !canvas.isEmpty && !state.busy;
  $("#make").disabled = !can;
  $("#other").disabled = !can || !state.variants.length;
  $("#stop").hidden = !state.busy;
  $("#other").hidden = Boolean(state.busy);
  const count = Number($("#variants").value) || 1;
  if (!state.busy) $("#make").textContent = count === 1 ? "Make it" : `Make ${count} variants`;
}
$("#variants").addEventListener("input", ready);

// ---- results ------------------------------------------------------------------------------------------------------

function order() {
  const example = begin() === "real" ? state.examples.find((one) => one.number === state.example) : undefined;
  return {
    data: state.picture.data, picture: state.picture.name, run: state.run.path, defect: defectName(),
    prompt: free() ? $("#prompt").value : null, preset: $("#preset").value, begin: begin(),
    example: example?.number ?? null, example_version: example?.version ?? null, strength: Number($("#strength").value) / 100,
    change: Number($("#change").value), seed: Number($("#seed").value) || 0,
    variants: Math.min(8, Math.max(1, Number($("#variants").value) || 1)),
    examples_of: state.data,
  };
}

function base64(blob) {
  return new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1]);
    reader.readAsDataURL(blob);
  });
}

async function make() {
  if ($("#make").disabled) return;
  const { picture } = state, turn = turns.picture, asked = order(); // as they are now, whatever is chosen while it works
  const sent = canvas.png(), mask = canvas.mask.slice();
  const busy = state.busy = new AbortController();
  const began = performance.now();
  ready();
  $("#make").textContent = "Making …";
  $("#make-hint").textContent = $("#preset").value === "fast" ? "" : "This preset takes minutes on a machine without a graphics card.";
  const found = await attempt(async () => ask("/studio/paint/edits", { method: "POST", json: { ...asked, mask: await base64(await sent) }, signal: busy.signal }));
  state.busy = null;
  if (found) {
    const words = `${found.variants.length} made in ${((performance.now() - began) / 1000).toFixed(1)} s.`;
    if (turns.picture === turn) await present(found, words);
    else offer(found, picture, mask, words);
  } else $("#make-hint").textContent = busy.signal.aborted ? "Stopped." : "";
  ready();
}

async function present(found, words) {
  await showVariants(found);
  if (matchMedia("(max-width: 62rem)").matches) $(".stage-card").scrollIntoView({ block: "start" });
  $("#make-hint").textContent = words;
}

/** Results of a picture that was left while they were made: a button shows them, with that picture and its mask. */
function offer(found, picture, mask, words) {
  const button = element("button", { type: "button", id: "offer", textContent: "Show them" });
  button.addEventListener("click", async () => {
    if (!(await choosePicture(picture.data, picture.name, mask))) return;
    await present(found, words);
    ready();
  });
  $("#make-hint").replaceChildren(`${words} They belong to ${picture.name.split("/").pop()}. `, button);
}
$("#stop").addEventListener("click", () => { state.busy?.abort(); $("#make").focus(); });

async function showVariants(found) {
  state.variants = found.variants;
  $("#result").hidden = false;
  $("#variants-list").replaceChildren(...found.variants.map((one, index) => {
    const worst = ["bad", "fair", "good"].find((level) => one.words.some((word) => word.level === level)) ?? "good";
    const word = one.words.find((own) => own.level === worst && worst !== "good") ?? one.words[0];
    const button = element("button", { type: "button", "aria-pressed": "false" },
      element("span", { className: "thumb" }, element("img", { src: one.detail, alt: "" })),
      element("span", { className: "small" }, element("strong", { textContent: `${index + 1}. ` }), word?.text ?? ""));
    button.addEventListener("click", () => choose(index));
    return button;
  }));
  $("#notes").replaceChildren(...found.notes.map((text) => element("p", { className: "notice fair small", textContent: text })));
  await choose(0);
}

async function choose(index) {
  const variant = state.variants[index];
  if (!variant) return;
  state.chosen = index;
  $$("#variants-list button").forEach((one, place) => one.setAttribute("aria-pressed", String(place === index)));
  $("#scores-title").textContent = `Result ${index + 1}`;
  $("#scores").replaceChildren(scoreList(variant.words));
  const rows = Object.entries(variant.record).filter(([, value]) => value !== "" && value !== null && typeof value !== "object" || Array.isArray(value) && value.length);
  $("#record").replaceChildren(element("tbody", {}, ...rows.map(([name, value]) => element("tr", {},
    element("th", { scope: "row", textContent: name.replaceAll("_", " ") }), element("td", { className: "figure", textContent: String(value) })))));
  $("#keep").disabled = Boolean(variant.kept);
  keptWords(variant);
  $("#download").href = `/studio/paint/results/${variant.id}/whole.png`;
  $("#download").download = `${variant.record.defect}-${variant.record.seed}.png`;
  const patch = await attempt(() => bitmap(variant.patch));
  if (!patch || state.variants[state.chosen] !== variant) return;
  canvas.split = Number($("#split").value) / 100;
  canvas.setResult(patch, variant.left, variant.top);
  $("#compare-bar").hidden = false;
  document.body.dataset.shown = variant.id;
}

function showPainting() {
  canvas.compare(false);
  $("#compare-bar").hidden = true;
}
$("#again").addEventListener("click", showPainting);
$("#split").addEventListener("input", (event) => { canvas.split = event.target.value / 100; splitShown(); canvas.draw(); });
$("#outline").addEventListener("change", (event) => { canvas.outlined = event.target.checked; canvas.draw(); });

function keptWords(variant) {
  $("#kept-words").textContent = variant.kept ?? "";
  $("#kept-link").hidden = !variant.kept;
  $("#kept-link").href = `/review?${query({ folder: variant.folder ?? "" })}`;
}

async function keep() {
  const variant = state.variants[state.chosen];
  if (!variant || variant.kept || variant.keeping || $("#result").hidden) return;
  variant.keeping = true; // a second press keeps it no second time
  const kept = await attempt(() => ask("/studio/paint/keep", { method: "POST", json: { id: variant.id, folder: $("#kept").value.trim() } }));
  variant.keeping = false;
  if (!kept) return;
  Object.assign(variant, { kept: `Kept as image ${kept.index} in ${kept.folder}.`, folder: kept.folder });
  if (variant === state.variants[state.chosen]) {
    $("#keep").disabled = true;
    keptWords(variant);
  }
  say(`Kept as image ${kept.index}.`, "good");
}

$("#make").addEventListener("click", make);
$("#other").addEventListener("click", () => {
  $("#seed").value = Number($("#seed").value) + Number($("#variants").value);
  make();
});
$("#keep").addEventListener("click", keep);

document.addEventListener("keydown", (event) => {
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && key === "enter") { event.preventDefault(); make(); return; }
  if (typing(event)) return;
  if ((event.ctrlKey || event.metaKey) && key === "z") { event.preventDefault(); event.shiftKey ? canvas.redo() : canvas.undo(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const tool = { b: "brush", e: "eraser", h: "move" }[key];
  if (tool) { showPainting(); canvas.setTool(tool); } else if (key === "k") keep();
  else if (/^[1-8]$/.test(key)) choose(Number(key) - 1);
});

// ---- start --------------------------------------------------------------------------------------------------------

$("#data").replaceChildren(...page.data.map((one) => element("option", { value: one.path, textContent: one.label })));
$("#run").replaceChildren(...page.runs.map((one) => element("option", { value: one.path, textContent: one.label })));
$("#preset").replaceChildren(...page.presets.map((one) => element("option", { value: one.name, textContent: one.label })));
$("#data").addEventListener("change", (event) => {
  state.picture = null;
  turns.picture += 1;
  ready();
  chooseData(event.target.value);
});
$("#run").addEventListener("change", (event) => chooseRun(event.target.value));
$("#defect").addEventListener("change", chooseDefect);
const asked = new URLSearchParams(location.search);
for (const [name, select] of [["data", $("#data")], ["run", $("#run")]]) {
  if ([...select.options].some((one) => one.value === asked.get(name))) select.value = asked.get(name);
}
sliders();
chooseRun($("#run").value);
chooseData($("#data").value);
