// Draws the steps of a workflow below each other on a time axis, with executor and attempt.

import { segment } from "./address.js";
import { make } from "./dom.js";
import { duration, epoch, shortExecutor, shortId } from "./words.js";

const SHOWN = 200;

export class Waterfall {
  constructor(body) {
    this.body = body;
    this.shown = "";
  }

  show(steps, tree, workflow, more) {
    const text = JSON.stringify([workflow.workflow_id, workflow.status, steps.length, steps.at(-1), tree.attempts]);
    if (text === this.shown) return;
    this.shown = text;
    const times = [...steps.flatMap((step) => [epoch(step.started_at), epoch(step.completed_at)]), ...tree.attempts.flatMap((bar) => [bar.started_at, bar.ended_at])];
    const known = times.filter((at) => at !== null && at !== undefined);
    const from = Math.min(...known, epoch(workflow.started_at) ?? Infinity);
    const to = Math.max(...known, from + 0.001, workflow.completed_at ? 0 : tree.now);
    const cut = Math.max(0, steps.length - SHOWN);
    const open = new Set([...this.body.querySelectorAll("details[open]")].map((details) => details.dataset.step));
    const rows = steps.slice(cut).map((step) => this.row(step, tree.attempts, from, to, open));
    if (cut || more) rows.unshift(make("tr", {}, make("td", { colspan: 5, class: "quiet" }, `${cut || "More"} steps ${cut ? "before these" : "follow"} are not shown.`)));
    if (!steps.length) rows.push(make("tr", {}, make("td", { colspan: 5, class: "quiet" }, "No step is recorded yet.")));
    this.body.replaceChildren(...rows);
  }

  row(step, attempts, from, to, open) {
    const started = epoch(step.started_at);
    const ended = epoch(step.completed_at);
    const at = ended ?? started;
    const attempt = attempts.findLast((bar) => at !== null && bar.started_at <= at + 0.05);
    const bar = make("span", { class: step.error ? "span bad" : "span" });
    if (started !== null) {
      bar.style.left = `${(100 * (started - from)) / (to - from)}%`;
      bar.style.width = `${Math.max(0.4, (100 * ((ended ?? to) - started)) / (to - from))}%`;
    }
    const breaks = attempts.slice(1).map((next) => {
      const mark = make("span", { class: "break" });
      mark.style.left = `${(100 * (next.started_at - from)) / (to - from)}%`;
      return mark;
    });
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, `${step.step_id}. ${step.name}`, step.child_workflow_id ? make("a", { href: `/console/workflows/${segment(step.child_workflow_id)}`, data: { inside: "" }, class: "child", title: step.child_workflow_id }, shortId(step.child_workflow_id, 22)) : null),
      make("td", { title: attempt?.executor_id }, attempt ? `${shortExecutor(attempt.executor_id)} · ${attempt.attempt}` : "–"),
      make("td", { class: "number" }, step.seconds === null ? "–" : duration(step.seconds)),
      make("td", { class: "track" }, breaks, started === null ? null : bar),
      make("td", {}, this.result(step, open)),
    );
  }

  result(step, open) {
    if (step.error) return make("span", { class: "badge bad" }, `! ${step.error}`);
    if (step.output === null || step.output === undefined) return make("span", { class: "quiet" }, "–");
    const text = typeof step.output === "string" ? step.output : JSON.stringify(step.output);
    if (text.length <= 40) return make("code", {}, text);
    const key = String(step.step_id);
    return make("details", { data: { step: key }, open: open.has(key) }, make("summary", {}, `${text.slice(0, 32)}…`), make("pre", { tabindex: "0" }, text, step.output_shortened ? " … (the first 4 kB)" : ""));
  }
}
