// Jobs as cards: state, progress, loss curve, previews, and what can be done with them.
import { $, ask, attempt, duration, element, say } from "./common.js";

const STATES = { queued: ["waits", ""], running: ["works", "good"], paused: ["paused", "fair"], finished: ["finished", "good"], failed: ["failed", "bad"], stopped: ["stopped", "fair"] };
const NAMES = { fit: "Fit", generate: "Generate", evaluate: "Evaluate", export: "Export" };
const TASKS = { encode: "reads the windows", domain: "learns the look of the parts", control: "learns to draw defects into masks", generate: "makes images" };
const LINES = { domain: "look of the parts", control: "defects in masks" }; // the same below a curve, where there is little room
const query = (values) => new URLSearchParams(values).toString();
const base = (path) => String(path).replace(/\/+$/, "").split("/").pop();

/** A loss curve: the mean of neighbouring steps for each stage, on a logarithmic scale. */
export function chart(curve) {
  const width = 460, height = 170, left = 44, bottom = 24, top = 10;
  const space = "http://www.w3.org/2000/svg";
  const make = (tag, attributes, text = "") => {
    const made = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  };
  const tasks = [...new Set(curve.map(([task]) => task))];
  const lines = tasks.map((task) => smooth(curve.filter(([own]) => own === task)));
  const values = lines.flat().map(([, loss]) => loss).filter((loss) => loss > 0);
  const low = Math.min(...values), high = Math.max(...values, low * 1.05);
  const total = lines.reduce((sum, line) => sum + (line.at(-1)?.[0] ?? 0), 0) || 1;
  const y = (loss) => top + (height - top - bottom) * (1 - (Math.log(Math.max(loss, low)) - Math.log(low)) / (Math.log(high) - Math.log(low) || 1));
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": describe(tasks, lines) });
  for (const value of [high, Math.sqrt(low * high), low]) {
    svg.append(make("line", { x1: left, x2: width - 6, y1: y(value), y2: y(value), class: "axis" }),
      make("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toPrecision(2)));
  }
  let begin = 0;
  lines.forEach((line, index) => {
    const x = (step) => left + (width - left - 8) * (begin + step) / total;
    const points = line.filter(([, loss]) => loss > 0).map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`);
    svg.append(make("path", { d: `M${points.join("L")}`, class: index % 2 ? "second" : "" }));
    const last = index > 0 && index === lines.length - 1; // at the right end, so that a short stage before it has room
    svg.append(make("text", { x: last ? width - 8 : x(0) + 2, y: height - 6, "text-anchor": last ? "end" : "start" },
      `${LINES[tasks[index]] ?? tasks[index]}, ${line.at(-1)?.[0] ?? 0} steps`));
    begin += line.at(-1)?.[0] ?? 0;
  });
  return svg;
}

function smooth(curve) {
  const size = Math.max(1, Math.ceil(curve.length / 120));
  const points = [];
  for (let start = 0; start < curve.length; start += size) {
    const part = curve.slice(start, start + size);
    points.push([part.at(-1)[1], part.reduce((sum, [, , loss]) => sum + loss, 0) / part.length]);
  }
  return points;
}

function describe(tasks, lines) {
  return `Loss: ${tasks.map((task, index) => `${LINES[task] ?? task} from ${lines[index][0][1].toPrecision(2)} to ${lines[index].at(-1)[1].toPrecision(2)}`).join("; ")}`;
}

/** A list of jobs that keeps itself up to date. */
export class Jobs {
  constructor(host, { commands, onChange = () => {} }) {
    Object.assign(this, { host, commands, onChange, cards: new Map(), known: "" });
    this.look();
  }

  async look() {
    clearTimeout(this.timer);
    const turn = this.turn = (this.turn ?? 0) + 1; // a button looks at once, while an older answer is on its way
    try {
      const jobs = (await ask("/v1/jobs")).filter((job) => this.commands.includes(job.command)).reverse();
      if (this.turn !== turn) return;
      await this.show(jobs);
      this.silent = false;
    } catch (error) {
      if (!this.silent) say(error.message, "bad"); // once, not every second
      this.silent = true;
    }
    if (this.turn !== turn) return;
    this.timer = setTimeout(() => this.look(), document.hidden ? 6000 : 1200);
  }

  async show(jobs) {
    const mark = jobs.map((job) => `${job.id}${job.state}`).join();
    if (mark !== this.known) { this.known = mark; this.onChange(jobs); }
    for (const [index, job] of jobs.entries()) {
      if (!this.cards.has(job.id)) this.cards.set(job.id, new Card(job, this));
      const card = this.cards.get(job.id);
      if (this.host.children[index] !== card.root) this.host.insertBefore(card.root, this.host.children[index] ?? null);
      card.update(job, index < 3 || job.state === "running");
    }
  }
}

class Card {
  constructor(job, jobs) {
    Object.assign(this, { id: job.id, jobs, last: 0, curve: [], previews: [], images: [], notes: [] });
    this.root = element("article", { className: "card job", "aria-label": `${NAMES[job.command]} ${base(job.folder)}` });
    this.head = element("div", { className: "job-head" });
    this.bar = element("progress", { max: 1, value: 0, "aria-label": "Progress" });
    this.words = element("p", { className: "small" });
    this.actions = element("div", { className: "row" });
    this.body = element("div", { className: "stack" });
    this.root.append(this.head, this.bar, this.words, this.actions, this.body);
    this.root.dataset.job = job.id;
  }

  async update(job, watched) {
    const changed = !this.job || this.job.state !== job.state;
    this.job = job;
    this.root.dataset.state = job.state;
    const [state, level] = STATES[job.state];
    if (changed) {
      this.head.replaceChildren(element("h3", { textContent: `${NAMES[job.command]} ${base(job.folder)}` }), element("span", { className: `tag ${level}`, textContent: state }));
      this.buttons(job);
    }
    if (job.fraction === null && job.state === "running") this.bar.removeAttribute("value");
    else this.bar.value = job.fraction ?? 0;
    this.words.textContent = this.sentence(job);
    if ((watched || changed) && (job.state === "running" || changed || !this.read)) await this.events();
  }

  sentence(job) {
    if (job.problem) return ["run", "data", "out"].reduce((text, name) => (job.settings[name] ? text.replaceAll(job.settings[name], base(job.settings[name])) : text), job.problem);
    const progress = job.progress;
    if (job.state === "queued") return "Waits until the jobs before it are over.";
    if (job.state === "finished") return `Finished in ${duration((Date.parse(job.finished) - Date.parse(job.started)) / 1000)}.`;
    if (!progress) return job.state === "running" ? "Reads the settings and the data …" : "";
    const loss = progress.figures?.loss === undefined ? "" : `, loss ${progress.figures.loss.toPrecision(3)}`;
    const left = job.state === "running" ? ` ${job.seconds_left === null ? "The time left is not known yet." : `About ${duration(job.seconds_left)} left in all.`}` : "";
    return `${TASKS[progress.task] ?? progress.task}: ${progress.done} of ${progress.total} ${progress.unit === "img" ? "images" : `${progress.unit}s`}${loss}.${left}`;
  }

  buttons(job) {
    const button = (text, work, kind = "") => {
      const made = element("button", { type: "button", textContent: text, className: kind });
      made.addEventListener("click", async () => { await attempt(work); this.jobs.look(); });
      return made;
    };
    const post = (what) => () => ask(`/v1/jobs/${this.id}/${what}`, { method: "POST" });
    const made = [];
    if (job.state === "running" || job.state === "queued") made.push(button("Pause", post("pause")));
    if (["paused", "stopped", "failed"].includes(job.state)) made.push(button("Resume", post("resume")));
    if (["running", "queued", "paused"].includes(job.state)) made.push(button("Stop", () => ask(`/v1/jobs/${this.id}`, { method: "DELETE" })));
    this.actions.replaceChildren(...made);
    this.links(job);
  }

  async links(job) {
    const turn = this.linked = (this.linked ?? 0) + 1;
    const found = await ask(`/studio/jobs/outcome?${query({ job: this.id })}`).catch(() => null);
    if (!found || this.linked !== turn) return;
    const link = (text, href) => element("a", { className: "button", textContent: text, href });
    if (found.run) this.actions.append(link("Paint with it", `/paint?${query({ run: found.run, data: job.settings.data ?? "" })}`));
    if (found.images) this.actions.append(link("Review the images", `/review?${query({ folder: found.folder })}`));
    if (found.report) this.actions.append(link("Show the tables", `/evaluate?${query({ folder: found.folder })}`));
    this.folder = found.folder;
    if (this.images.length) this.draw();
  }

  async events() {
    if (this.asking) { this.more = true; return; } // the same events would be told twice
    this.asking = true;
    const found = await ask(`/studio/jobs/events?${query({ job: this.id, after: this.last })}`).catch(() => null);
    this.asking = false;
    if (this.more) { this.more = false; setTimeout(() => this.events()); } // the last ones may have come since
    if (!found) return;
    this.read = true;
    if (found.last === this.last && this.body.childElementCount) return;
    this.last = found.last;
    this.curve.push(...found.curve);
    this.previews.push(...found.previews);
    this.notes.push(...found.notes);
    this.images = [...this.images, ...found.images].slice(-12);
    this.draw();
  }

  draw() {
    const parts = [];
    const { command } = this.job; // the trainings of an evaluation follow each other, and its images lie elsewhere
    if (command === "fit" && this.curve.length > 1) parts.push(element("figure", { className: "plain-figure" }, chart(this.curve), element("figcaption", { className: "hint", textContent: "Loss: how far the model is from its examples. It jumps from step to step; what counts is that it falls in the long run." })));
    const preview = this.previews.at(-1);
    if (preview) parts.push(this.preview(preview));
    if (command === "generate" && this.images.length && this.folder) {
      parts.push(element("ul", { className: "plain tiles tight" }, ...this.images.map(({ index, version }) => element("li", {}, element("span", { className: "thumb" },
        element("img", { loading: "lazy", alt: `Image ${index}`, src: `/studio/review/tile?${query({ folder: this.folder, index, version })}` }))))));
    }
    if (this.notes.length) parts.push(element("details", {}, element("summary", { textContent: `Remarks (${this.notes.length})` }),
      element("ul", { className: "small" }, ...this.notes.map((text) => element("li", { textContent: text })))));
    const open = $("details[open]", this.body);
    this.body.replaceChildren(...parts);
    if (open && $("details", this.body)) $("details", this.body).open = true;
    if (preview && this.job.settings.data) this.real();
  }

  preview(preview) {
    const types = this.types ?? [];
    const control = preview.task === "control";
    const columns = (control ? types : ["no defect", ...types]).slice(0, 8);
    const order = control ? "The types take turns" : "From left to right";
    const caption = control ? "From top to bottom: source, mask, result, what the filter says of it, a real defect." : "Drawn from words alone.";
    return element("figure", { className: "plain-figure" },
      element("img", { className: "wide-picture preview", alt: `Preview after ${preview.step} steps`, src: `/studio/jobs/preview?${query({ job: this.id, name: preview.name })}` }),
      element("figcaption", { className: "hint", textContent: `Preview after ${preview.step} steps (${TASKS[preview.task] ?? preview.task}). ${caption}${columns.length ? ` ${order}: ${columns.join(", ")}.` : ""}` }),
      element("div", { className: "real" }, ...(this.realRow ? [this.realRow] : [])));
  }

  /** The real defects, to compare the preview with. */
  async real() {
    if (this.realAsked) return;
    this.realAsked = true;
    const data = this.job.settings.data;
    const found = await ask(`/studio/jobs/types?${query({ data })}`).catch(() => null);
    if (!found) return;
    this.types = found.types;
    this.realRow = element("div", { className: "stack" }, element("p", { className: "hint", textContent: "Real defects to compare with:" }),
      element("ul", { className: "plain tiles tight" }, ...found.types.slice(0, 12).map((defect) => element("li", {}, element("figure", {},
        element("span", { className: "thumb" }, element("img", { alt: `Real ${defect}`, src: `/studio/paint/example?${query({ data, defect, number: 0 })}` })),
        element("figcaption", { textContent: defect }))))));
    this.draw();
  }
}
