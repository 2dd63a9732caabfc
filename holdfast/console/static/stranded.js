// Stranded work of versions without an executor: its amount, and its adoption by the present release.

import { $, make, say } from "./dom.js";
import { count } from "./words.js";

export function prepareStranded(api, actions) {
  const dialog = $("#stranded-dialog");
  const rows = $("#stranded-rows");
  $("#stranded").addEventListener("click", async () => {
    rows.replaceChildren();
    say($("#stranded-problem"), "");
    dialog.showModal();
    try {
      const { stranded } = await api.get("/stranded");
      rows.replaceChildren(...stranded.map((row) => item(row, dialog, actions)));
      if (!stranded.length) rows.append(make("li", {}, "Nothing is stranded any more."));
    } catch (error) {
      say($("#stranded-problem"), error.message);
    }
  });
}

function item(row, dialog, actions) {
  const adopt = () => {
    dialog.close("");
    actions.adoptAll(row);
  };
  const words = `${count(row.workflows, "workflow")} (${row.status}) of ${row.application}, version ${row.application_version}`;
  return make("li", {}, make("button", { type: "button", onclick: adopt }, "Adopt…"), make("span", {}, words));
}
