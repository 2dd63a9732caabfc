// The choice of an application: the whole page then shows only its executors and workflows.

import { $, make, say } from "./dom.js";

// An installation's own two applications are shown together. The choice appears with a third one.
const SHOWN_FROM = 3;

/** Returns a function that updates the choice. `changed` is called when a person has chosen. */
export function prepareApplications(store, changed) {
  const label = $("#application-choice");
  const select = label.querySelector("select");
  let known = "";
  select.addEventListener("change", () => {
    store.application = select.value;
    say($("#queue-title"), select.value ? "Queues of all applications" : "Queues");
    changed();
  });
  return () => {
    const names = store.applications();
    label.hidden = names.length < SHOWN_FROM && !store.application;
    // A chosen application stays in the list while none of its executors lives.
    if (store.application && !names.includes(store.application)) names.push(store.application);
    if (names.join("\n") === known) return;
    known = names.join("\n");
    select.replaceChildren(make("option", { value: "" }, "all"), ...names.map((name) => make("option", { value: name }, name)));
    select.value = store.application;
  };
}
