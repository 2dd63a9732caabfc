// The view for narrow screens: a list of executors, each with its running work and its last event.

import { $, make, say } from "./dom.js";
import { metaOf } from "./timeline.js";
import { count, duration, endOf, EXECUTOR, shortExecutor } from "./words.js";

const RUNNING_SHOWN = 4;

export class Phone {
  constructor(store, view, openExecutor) {
    this.store = store;
    this.view = view;
    this.openExecutor = openExecutor;
    this.list = $("#phone");
    this.items = new Map();
  }

  show() {
    if (this.list.offsetParent === null) return;
    const lanes = this.store.lanes(this.view.since());
    const running = new Map();
    for (const bar of this.store.bars.values()) {
      if (bar.ended_at !== null) continue;
      if (!running.has(bar.executor_id)) running.set(bar.executor_id, []);
      running.get(bar.executor_id).push(bar);
    }
    for (const [id, item] of this.items) {
      if (lanes.some((executor) => executor.executor_id === id)) continue;
      item.remove();
      this.items.delete(id);
    }
    lanes.forEach((executor, index) => {
      const item = this.item(executor);
      if (this.list.children[index] !== item) this.list.insertBefore(item, this.list.children[index] ?? null);
      const { shape, word } = EXECUTOR[executor.state] ?? { shape: "?", word: executor.state };
      item.dataset.state = executor.state;
      say(item.parts.shape, shape);
      say(item.parts.state, word);
      say(item.parts.meta, metaOf(executor, this.store));
      say(item.parts.event, this.lastEvent(executor));
      say(item.parts.runs, executor.ended_at === null ? runs(running.get(executor.executor_id) ?? []) : "");
    });
  }

  item(executor) {
    const id = executor.executor_id;
    if (this.items.has(id)) return this.items.get(id);
    const parts = Object.fromEntries(["shape", "state", "meta", "event", "runs"].map((name) => [name, make("span", { class: name })]));
    parts.shape.setAttribute("aria-hidden", "true");
    const item = make(
      "li",
      {},
      make(
        "button",
        { type: "button", class: "head", title: id, onclick: () => this.openExecutor(id) },
        make("span", { class: "who" }, parts.shape, make("strong", {}, shortExecutor(id)), parts.state),
        parts.meta,
      ),
      make("p", {}, parts.event),
      make("p", {}, parts.runs),
    );
    item.parts = parts;
    this.items.set(id, item);
    return item;
  }

  lastEvent(executor) {
    const { store } = this;
    const id = executor.executor_id;
    if (executor.ended_at !== null) return endOf(executor, store.moved(id));
    let taken = null;
    let number = 0;
    for (const move of store.moves.values()) {
      if (move.to !== id || move.claimed_at === null) continue;
      if (!taken || move.claimed_at > taken.claimed_at) taken = move;
    }
    for (const move of store.moves.values()) {
      if (taken && move.to === id && move.from === taken.from) number += 1;
    }
    if (!taken) return `started ${duration(store.now() - executor.started_at)} ago`;
    const verb = taken.kind === "handover" ? "was handed" : "took over";
    return `${verb} ${count(number, "workflow")} from ${shortExecutor(taken.from)}, ${duration(store.now() - taken.claimed_at)} ago`;
  }
}

function runs(bars) {
  if (!bars.length) return "runs nothing";
  const shown = bars.slice(0, RUNNING_SHOWN).map((bar) => bar.label);
  const rest = bars.length - shown.length;
  return `runs ${shown.join(", ")}${rest ? ` and ${rest} more` : ""}`;
}
