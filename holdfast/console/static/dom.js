// DOM helpers: the small part of a framework that this page needs.

export const $ = (selector, within = document) => within.querySelector(selector);

const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** Text with its control characters as escapes: bidirectional ones would reorder what is read. */
export const visible = (text) =>
  String(text).replace(CONTROLS, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** Creates an element: `make("td", {class: "id", onclick: f}, "text", child, …)`. Text is never read as markup. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  const shown = children.flat().filter((child) => child !== null && child !== undefined && child !== false);
  element.append(...shown.map((child) => (typeof child === "string" ? visible(child) : child)));
  return element;
}

/** Sets text only if it differs: an unchanged node needs no layout and is not announced again. */
export function say(element, text) {
  const shown = visible(text);
  if (element.textContent !== shown) element.textContent = shown;
}

/** Creates the shape and the word of a state, in its tone. */
export function badge({ shape, word, tone = "plain" }) {
  return make("span", { class: `badge ${tone}` }, make("span", { "aria-hidden": "true" }, shape), ` ${word}`);
}

/** Runs `action` at most every `milliseconds`. The last call is never lost. */
export function throttled(action, milliseconds) {
  let timer = 0;
  let last = -Infinity;
  return () => {
    if (timer) return;
    timer = setTimeout(() => {
      timer = 0;
      last = performance.now();
      action();
    }, Math.max(0, last + milliseconds - performance.now()));
  };
}

/** A refusal by the server, with the kind and the text of its problem document. */
export async function problemOf(response) {
  const words = `The server answered ${response.status}.`;
  try {
    const problem = await response.json();
    return { kind: String(problem.type ?? "").split(":").at(-1), words: problem.detail || problem.title || words };
  } catch {
    return { kind: "", words };
  }
}
