// The dialog of one executor: its data and its control operations.

import { $, make, say } from "./dom.js";
import { count, duration, endOf, EXECUTOR, clock } from "./words.js";

export class ExecutorDialog {
  constructor(store, actions) {
    this.store = store;
    this.actions = actions;
    this.dialog = $("#executor-dialog");
    this.id = null;
    for (const operation of ["drain", "crash"]) {
      $(`#executor-${operation}`).addEventListener("click", () => {
        const executor = this.store.executors.get(this.id);
        this.dialog.close("");
        if (executor) actions[operation](executor);
      });
    }
  }

  open(id) {
    this.id = id;
    this.shown = "";
    this.show();
    this.dialog.showModal();
  }

  show() {
    const executor = this.store.executors.get(this.id);
    if (!executor) return;
    const { shape, word } = EXECUTOR[executor.state] ?? { shape: "?", word: executor.state };
    say($("#executor-title"), executor.executor_id);
    const facts = [
      ["State", `${shape} ${word}`],
      ["Role", `${executor.role} of ${executor.application}`],
      ["Version", executor.version],
      ["Process", `${executor.pid} on ${executor.hostname}`],
      ["Runs", `${count(executor.in_flight, "workflow")}, ${count(executor.slots, "slot")} for CPU work`],
      ["Started", clock(executor.started_at)],
    ];
    if (executor.ended_at === null) {
      facts.push(["Last heartbeat", `${duration(this.store.knownUntil() - executor.heartbeat_at)} ago`]);
    } else {
      facts.push(["Ended", `${clock(executor.ended_at)}: ${endOf(executor, this.store.moved(this.id))}`]);
    }
    const text = facts.flat().join("|");
    if (text !== this.shown) {
      this.shown = text;
      $("#executor-facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
    }
    for (const operation of ["drain", "crash"]) {
      const why = this.actions.whyNot(operation, executor);
      $(`#executor-${operation}`).disabled = why !== null;
      say($(`#executor-${operation}-why`), why ?? { drain: "Finishes its steps, hands over the rest, ends.", crash: "Dies at once; peers take its work over." }[operation]);
    }
  }

  /** Updates an open dialog. */
  refresh() {
    if (this.dialog.open) this.show();
  }
}
