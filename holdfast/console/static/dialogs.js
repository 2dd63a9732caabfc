// Dialogs and notices: the token, a confirmation before destructive actions, and results.

import { $, make, say } from "./dom.js";

const NOTICE_SECONDS = 12;
const NOTICES = 4;

/** Asks for the admin token; null if the user cancels. `again`: the last token was refused. */
export function askToken(again) {
  const dialog = $("#token-dialog");
  const field = $("#token");
  $("#token-again").hidden = !again;
  field.value = "";
  return shown(dialog, () => field.value.trim() || null);
}

/** Asks for confirmation; resolves with true for yes. */
export function confirm({ title, text, yes, danger = false }) {
  say($("#confirm-title"), title);
  say($("#confirm-text"), text);
  const button = $("#confirm-yes");
  button.textContent = yes;
  button.classList.toggle("danger", danger);
  return shown($("#confirm-dialog"), () => true).then(Boolean);
}

/** Opens a dialog. Resolves with `value()` if its form is submitted, with null if it is closed otherwise. */
function shown(dialog, value) {
  return new Promise((resolve) => {
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" ? value() : null), { once: true });
    dialog.showModal();
  });
}

/** Makes every dialog close by its buttons, by Escape, and by a click outside. */
export function prepareDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close("");
    });
    for (const button of dialog.querySelectorAll("[data-close]")) {
      button.addEventListener("click", () => dialog.close(""));
    }
    for (const form of dialog.querySelectorAll("form[data-answers]")) {
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        dialog.close("yes");
      });
    }
  }
}

/** Shows what was done and what to watch for, with a link. */
export function notice(text, { bad = false, link = null } = {}) {
  const region = $(bad ? "#notices-bad" : "#notices");
  const element = make(
    "div",
    { class: `notice${bad ? " bad" : ""}` },
    make("span", { "aria-hidden": "true" }, bad ? "! " : "✓ "),
    make("p", {}, text, link ? make("a", { href: link.href, data: { inside: "" } }, link.text) : null),
    make("button", { type: "button", class: "plain", "aria-label": "Dismiss", onclick: () => element.remove() }, "×"),
  );
  region.append(element);
  while (region.children.length > NOTICES) region.firstChild.remove();
  const leave = () => {
    // The notice stays while it is being read.
    if (element.matches(":hover, :focus-within")) setTimeout(leave, 2000);
    else element.remove();
  };
  setTimeout(leave, NOTICE_SECONDS * 1000);
}
