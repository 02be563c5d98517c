// The room Fit and generate: forms that start jobs, and the jobs.
import { $, $$, ask, attempt, element, given, say } from "./common.js";
import { Jobs } from "./jobs.js";

const page = given();
const query = (values) => new URLSearchParams(values).toString();
const options = (places) => places.map((one) => element("option", { value: one.path, textContent: one.label, selected: one.path === page.chosen }));
const number = (selector) => ($(selector).value === "" ? null : Number($(selector).value));

async function folder(part, name) {
  const place = await ask(`/studio/jobs/name?${query({ part, name })}`);
  if (place.taken) throw new Error(`There is a folder named ${name} already; choose another name.`);
  return place.path;
}

/** The next name: parts, parts-2, parts-3. */
function following(name) {
  const found = /^(.*)-(\d+)$/.exec(name);
  return found ? `${found[1]}-${Number(found[2]) + 1}` : `${name}-2`;
}

async function start(command, part, field, settings) {
  const name = field.value.trim();
  const job = await attempt(async () => {
    const out = await folder(part, name);
    const values = Object.fromEntries(Object.entries({ ...settings, out }).filter(([, value]) => value !== null && value !== ""));
    return ask("/v1/jobs", { method: "POST", json: { command, settings: values } });
  });
  if (job) {
    say("The job was started.", "good");
    if (field.value.trim() === name) field.value = following(name);
  }
  jobs.look();
}

$("#fit").addEventListener("submit", (event) => {
  event.preventDefault();
  start("fit", "runs", $("#fit-name"), {
    data: $("#fit-data").value, object: $("#fit-object").value.trim(), preset: $("#fit-preset").value, base: $("#fit-base").value.trim(),
    domain_steps: number("#fit-domain"), control_steps: number("#fit-control"), examples: number("#fit-examples"),
    preview_every: number("#fit-preview"), batch_size: number("#fit-batch"),
  });
});
$("#generate").addEventListener("submit", (event) => {
  event.preventDefault();
  start("generate", "generated", $("#gen-name"), {
    run: $("#gen-run").value, data: $("#gen-data").value, count: number("#gen-count"), masks: $("#gen-masks").value,
    preset: $("#gen-preset").value, seed: number("#gen-seed") ?? 0,
    defect: $$("#gen-types input:checked").map((one) => one.value),
  });
});

async function types() {
  const run = $("#gen-run").value;
  $("#gen-types").replaceChildren(); // those of another run are not to be sent
  const found = run ? await ask(`/studio/paint/run?${query({ run })}`).catch(() => null) : null;
  if ($("#gen-run").value !== run) return;
  $("#gen-types").replaceChildren(...(found?.defects ?? []).map((name) => {
    const box = element("input", { type: "checkbox", value: name });
    return element("label", { className: "choice" }, box, name);
  }), element("p", { className: "hint", textContent: "None chosen means all." }));
}

function names() {
  const data = $("#fit-data").selectedOptions[0]?.textContent ?? "";
  const clean = data.replace(/[^A-Za-z0-9 ._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "") || "run";
  if (!$("#fit-name").dataset.own) $("#fit-name").value = clean;
  if (!$("#gen-name").dataset.own) $("#gen-name").value = `${clean}-more`;
}
for (const id of ["fit-name", "gen-name"]) $(`#${id}`).addEventListener("input", (event) => { event.target.dataset.own = "1"; });
$("#fit-data").addEventListener("change", names);
$("#gen-run").addEventListener("change", types);

$("#fit-data").replaceChildren(...options(page.data));
$("#gen-data").replaceChildren(...options(page.data));
$("#gen-run").replaceChildren(...page.runs.map((one) => element("option", { value: one.path, textContent: one.label })));
$("#fit-preset").replaceChildren(...page.fitPresets.map((one) => element("option", { value: one.name, textContent: one.label })));
$("#gen-preset").replaceChildren(...page.presets.map((name) => element("option", { value: name, textContent: name })));
names();
types();
const jobs = new Jobs($("#jobs"), {
  commands: ["fit", "generate", "export"],
  onChange: async (list) => {
    $("#no-jobs").hidden = list.length > 0;
    const runs = await ask("/studio/jobs/runs").catch(() => null); // a fit that has just finished can be chosen
    const before = $("#gen-run").value;
    if (!runs) return;
    $("#gen-run").replaceChildren(...runs.runs.map((one) => element("option", { value: one.path, textContent: one.label, selected: one.path === before })));
    if ($("#gen-run").value !== before) types(); // it was deleted, or is the first one
  },
});
