// What all rooms use. Text of users is only ever set as text, never as markup.

/** The first element that a selector finds. */
export const $ = (selector, root = document) => root.querySelector(selector);

/** All elements that a selector finds. */
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** A new element: properties by name, `dataset` and attributes with a dash or "role" as attributes, then children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name === "dataset") Object.assign(made.dataset, value);
    else if (name.includes("-") || name === "role" || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Values that the page was delivered with. */
export function given(id = "given") {
  return JSON.parse(document.getElementById(id).textContent);
}

/** The sentence of an error answer, whatever part of the service gave it. */
function sentence(answer, status) {
  const places = [answer?.error?.message, answer?.message, answer?.sentence, answer?.error, answer?.detail];
  for (const place of places) if (typeof place === "string") return place;
  const list = answer?.errors ?? answer?.problems ?? answer?.detail;
  if (Array.isArray(list) && list.length) {
    return list.map((one) => (typeof one === "string" ? one : one.message ?? one.sentence ?? one.msg)).join(" ");
  }
  return `The server answered ${status}; try again, or look at its window.`;
}

/** Ask the server; throws an Error with a sentence for the user. */
export async function ask(path, { method = "GET", json, body, signal } = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      signal,
      headers: json === undefined ? {} : { "Content-Type": "application/json" },
      body: json === undefined ? body : JSON.stringify(json),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The studio's server does not answer; start it again with the same command.");
  }
  const kind = answer.headers.get("content-type") ?? "";
  const values = kind.includes("json") ? await answer.json() : null;
  if (!answer.ok) throw new Error(sentence(values, answer.status));
  return values;
}

/** Tell the user something, for eyes and screen readers: "good", "bad" or plain. */
export function say(text, kind = "") {
  const box = $("#said");
  const line = element("div", { className: `notice ${kind}`, textContent: text });
  box.append(line);
  while (box.children.length > 3) box.firstChild.remove();
  setTimeout(() => line.remove(), kind === "bad" ? 12000 : 5000);
}

/** Carry out and tell what went wrong; returns undefined then. */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, "bad");
    return undefined;
  }
}

/** A picture as a bitmap. */
export async function bitmap(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error("A picture could not be loaded; choose it again.");
  return createImageBitmap(await answer.blob());
}

/** Seconds in words. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "unknown";
  if (seconds < 1) return "under a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** Whether a key press belongs to a form field. */
export function typing(event) {
  const target = event.target;
  return target instanceof HTMLElement && (target.matches("input:not([type=checkbox]):not([type=radio]):not([type=range]), textarea, select") || target.isContentEditable);
}

/** Scores in words: a list with a mark, a sentence and its figure. */
export function scoreList(words) {
  return element("ul", { className: "plain scores" }, ...words.map((one) => element("li", {},
    element("span", { className: `dot ${one.level}`, "aria-hidden": "true" }),
    element("div", {},
      element("strong", { textContent: one.text }),
      element("p", { textContent: one.figure })))));
}

/** Show the values of range inputs in their outputs. */
export function sliders(root = document) {
  for (const input of $$("input[type=range][data-shown]", root)) {
    const output = input.parentElement.querySelector("output");
    const show = () => {
      const text = input.dataset.words ? JSON.parse(input.dataset.words)[Number(input.value)] : `${input.value}${input.dataset.shown}`;
      output.textContent = text;
      input.setAttribute("aria-valuetext", text);
    };
    input.addEventListener("input", show);
    show();
  }
}
