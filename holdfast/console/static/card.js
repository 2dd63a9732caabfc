// The card beside the pointer or the selected attempt. It describes the attempt in words.

import { segment } from "./address.js";
import { $, badge, make } from "./dom.js";
import { countedWords } from "./draw.js";
import { clock, duration, epoch, OUTCOME, shortExecutor } from "./words.js";

const STEPS_AFTER_MS = 250;
const STEPS_KEPT = 50;

export class Card {
  constructor(store, api, redraw) {
    this.store = store;
    this.api = api;
    this.redraw = redraw;
    this.element = $("#card");
    this.steps = new Map(); // workflow id → times at which its steps were recorded
    this.timer = 0;
  }

  show(hit, x, y) {
    const key = hit.bar?.key ?? hit.kind;
    this.element.replaceChildren(...this.content(hit));
    this.element.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = this.element;
    this.element.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - width - 12))}px`;
    this.element.style.top = `${y + 18 + height > innerHeight ? Math.max(8, y - height - 12) : y + 18}px`;
    if (hit.kind !== "bar" || this.key === key) return;
    this.key = key;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.load(hit.bar.workflow_id), STEPS_AFTER_MS);
  }

  hide() {
    this.element.hidden = true;
    this.key = null;
    clearTimeout(this.timer);
  }

  /** Reads the steps of the attempt that the card shows, and of no other. */
  async load(workflowId) {
    try {
      const { steps } = await this.api.get(`/workflows/${segment(workflowId)}/steps?limit=1000`);
      this.steps.set(workflowId, steps.map((step) => epoch(step.completed_at)).filter((at) => at !== null));
      if (this.steps.size > STEPS_KEPT) this.steps.delete(this.steps.keys().next().value);
      this.redraw();
    } catch {
      // Step marks are optional: without an answer there are none.
    }
  }

  content(hit) {
    if (hit.kind === "bar") return this.bar(hit.bar);
    if (hit.kind === "cluster" || hit.kind === "counted") return [make("p", {}, countedWords(hit))];
    if (hit.kind === "end") return [make("p", {}, make("strong", {}, hit.executor.executor_id)), make("p", {}, hit.words)];
    return [make("p", {}, pulseWords(hit.pulse))];
  }

  bar(bar) {
    const facts = [
      ["workflow", bar.workflow_id],
      ["executor", shortExecutor(bar.executor_id)],
      ["attempt", String(bar.attempt)],
      ["started", clock(bar.started_at)],
      [bar.ended_at === null ? "runs for" : "took", duration((bar.ended_at ?? this.store.knownUntil()) - bar.started_at)],
    ];
    const next = this.store.bars.get(bar.next);
    if (next) facts.push(["goes on", `on ${shortExecutor(next.executor_id)}, ${duration(next.started_at - bar.ended_at)} later`]);
    return [
      make("p", { class: "title" }, make("strong", {}, bar.label), badge(OUTCOME[bar.outcome] ?? { shape: "?", word: bar.outcome })),
      make("dl", {}, facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    ];
  }
}

export function pulseWords(pulse) {
  const at = clock(pulse.scheduled_at);
  if (pulse.status === "run") return `Tick of ${at}, ${duration(pulse.lateness_seconds)} late, by ${shortExecutor(pulse.executor_id)}`;
  return pulse.status === "skipped" ? `Tick of ${at} came too late and was skipped` : `Tick of ${at} is missing`;
}

/** Describes an attempt in one sentence for screen readers. */
export function barWords(bar, store) {
  const { word } = OUTCOME[bar.outcome] ?? { word: bar.outcome };
  const took = duration((bar.ended_at ?? store.knownUntil()) - bar.started_at);
  const next = store.bars.get(bar.next);
  const goesOn = next ? `; goes on as attempt ${next.attempt} on ${shortExecutor(next.executor_id)}, F follows it` : "";
  return `${bar.label}, ${word}, attempt ${bar.attempt} on ${shortExecutor(bar.executor_id)}, ${took}${goesOn}. Enter opens it.`;
}
