// The room Evaluate: tables and pictures of evaluations, and a form that starts one.
import { $, $$, ask, attempt, element, given, say } from "./common.js";
import { Jobs } from "./jobs.js";

const page = given();
const query = (values) => new URLSearchParams(values).toString();
const options = (places, chosen) => places.map((one) => element("option", { value: one.path, textContent: one.label, selected: one.path === chosen }));

async function show(folder) {
  $("#tables").replaceChildren();
  $("#about").textContent = "";
  $("#evaluation-field").hidden = !folder;
  if (!folder) { $("#about").textContent = "There is no evaluation yet. Start one: its tables and pictures stand here when it has finished."; return; }
  const found = await attempt(() => ask(`/studio/evaluate/report?${query({ folder })}`));
  if (!found || $("#evaluation").value !== folder) return;
  const { settings } = found;
  $("#about").textContent = `${found.data.split("/").pop()}: ${found.test_images} real test pictures; ${settings.count} synthetic images of each kind; `
    + `each detector trained ${settings.seeds === 1 ? "once" : `${settings.seeds} times`}.`;
  $("#tables").replaceChildren(...found.tables.map(table), ...found.sheets.map((sheet) => element("section", { className: "card stack" },
    element("h3", { textContent: sheet.title }),
    element("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": sheet.title },
      ...[false, true].map((dark) => element("img", { className: `sheet ${dark ? "of-dark" : "of-light"}`, alt: sheet.title, loading: "lazy",
        src: `/studio/evaluate/sheet?${query({ folder, name: sheet.name, dark })}` }))))));
}

function table(one) {
  const cell = (own, place) => (place === 0 ? element("th", { scope: "row", textContent: own.text }) : element("td", { className: `number${own.best ? " best" : ""}`, textContent: own.text }));
  return element("section", { className: "card stack" },
    element("h3", { textContent: one.title }),
    element("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": one.title }, element("table", { className: "measures" },
      element("thead", {}, element("tr", {}, ...one.columns.map((text, place) => element("th", { scope: "col", textContent: text, className: place ? "number" : "" })))),
      element("tbody", {}, ...one.rows.map((row) => element("tr", {}, ...row.map(cell)))))),
    one.note ? element("p", { className: "hint", textContent: one.note }) : null);
}

async function start(event) {
  event.preventDefault();
  const chosen = $$(".condition:checked").map((one) => one.value);
  if ($("#folder").value) chosen.push(`folder:${$("#folder").value}`);
  const detectors = $$(".detector:checked").map((one) => one.value);
  if (!chosen.length || !detectors.length) { say("Choose what is compared, and at least one detector.", "bad"); return; }
  const name = $("#name").value.trim();
  const settings = {
    data: $("#data").value, run: chosen.includes("adabldm:fast") ? $("#run").value : null, condition: chosen, detector: detectors, budget: "quick",
    count: Number($("#count").value), seeds: Number($("#seeds").value), detector_steps: $("#steps").value === "" ? null : Number($("#steps").value),
  };
  const job = await attempt(async () => {
    const place = await ask(`/studio/jobs/name?${query({ part: "evaluations", name })}`);
    if (place.taken) throw new Error("There is a folder of that name already; choose another name.");
    const values = Object.fromEntries(Object.entries({ ...settings, out: place.path }).filter(([, value]) => value !== null));
    return ask("/v1/jobs", { method: "POST", json: { command: "evaluate", settings: values } });
  });
  if (job) {
    say("The evaluation was started.", "good");
    if ($("#name").value.trim() === name) $("#name").value = `${name}-2`;
  }
  jobs.look();
}

let refreshes = 0;
async function refresh() {
  const turn = ++refreshes;
  const found = await ask("/studio/evaluate/list").catch(() => null);
  if (!found || refreshes !== turn) return;
  const before = $("#evaluation").value;
  const fresh = found.evaluations.find((one) => !page.evaluations.some((own) => own.path === one.path));
  page.evaluations = found.evaluations;
  const chosen = fresh?.path ?? before;
  $("#evaluation").replaceChildren(...options(found.evaluations, chosen));
  if ($("#evaluation").value !== before || fresh) show($("#evaluation").value); // one that was deleted cannot stay
}

const asked = new URLSearchParams(location.search).get("folder");
$("#data").replaceChildren(...options(page.data, page.chosen));
$("#run").replaceChildren(...options(page.runs));
$("#folder").append(...options(page.folders));
$("#evaluation").replaceChildren(...options(page.evaluations, asked));
$("#name").value = `evaluation-${new Date().toISOString().slice(0, 10)}`;
$("#unable").hidden = page.able;
$("#start").disabled = !page.able;
$("#evaluation").addEventListener("change", (event) => show(event.target.value));
$("#evaluate").addEventListener("submit", start);
const jobs = new Jobs($("#jobs"), { commands: ["evaluate"], onChange: (list) => { $("#no-jobs").hidden = list.length > 0; refresh(); } });
show($("#evaluation").value);
