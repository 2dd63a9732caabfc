// Stranded work, which no live executor can run: its amount, the reason, and what ends it.

import { $, make, say } from "./dom.js";
import { count } from "./words.js";

const WHY = {
  version: () => "no live executor runs this version",
  queue: (row) => `no live executor listens to the queue ${row.queue_name} of ${row.workflow_name}`,
  workflow: (row) => `no live executor of the queue ${row.queue_name} has ${row.workflow_name}`,
  arguments: (row) => `no live executor takes the stored arguments of ${row.workflow_name}`,
};

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
  const version = row.application_version ? `, version ${row.application_version}` : "";
  const what = `${count(row.workflows, "workflow")} (${row.status}) of ${row.application}${version}`;
  const words = `${what}: ${WHY[row.reason](row)}. Way out: ${row.way_out}.`;
  const button = make("button", { type: "button", onclick: adopt }, "Adopt…");
  return make("li", {}, ...(row.reason === "version" ? [button] : []), make("span", {}, words));
}
