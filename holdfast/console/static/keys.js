// Keyboard navigation in the timeline: arrow keys move between attempts, and each one is announced.

import { $ } from "./dom.js";
import { barWords } from "./card.js";
import { WINDOWS } from "./view.js";

export class Keys {
  constructor(timeline) {
    this.timeline = timeline;
    this.spoken = $("#spoken");
    timeline.canvas.addEventListener("keydown", (event) => {
      if (this.pressed(event.key)) event.preventDefault();
    });
    timeline.canvas.addEventListener("blur", () => timeline.card.hide());
    timeline.canvas.addEventListener("focus", () => {
      if (this.current()) this.show(this.current());
    });
  }

  current() {
    return this.timeline.store.bars.get(this.timeline.view.selected) ?? null;
  }

  pressed(key) {
    const { view, store, lanes } = this.timeline;
    const bar = this.current();
    if (key === "Escape") {
      view.select(null);
      this.timeline.card.hide();
    } else if (key === "Enter") {
      if (bar) this.timeline.openWorkflow(bar.workflow_id);
    } else if (key === "+" || key === "-") {
      const at = WINDOWS.indexOf(view.window) + (key === "+" ? -1 : 1);
      if (WINDOWS[at]) view.choose(WINDOWS[at]);
    } else if (key === "f" || key === "F") {
      // Follow the work from an interrupted end to its continuation.
      if (bar?.next && store.bars.has(bar.next)) this.choose(store.bars.get(bar.next));
    } else if (key.startsWith("Arrow") || key === "Home" || key === "End") {
      this.choose(this.target(key, bar, lanes));
    } else {
      return false;
    }
    return true;
  }

  target(key, bar, lanes) {
    const filled = lanes.shown.filter((lane) => this.seen(lane).length);
    if (!filled.length) return null;
    const own = bar && lanes.byId.get(bar.executor_id);
    const lane = filled.includes(own) ? own : filled[0];
    const bars = this.seen(lane);
    const index = bars.indexOf(bar);
    if (!bar || index < 0) return bars.at(-1);
    if (key === "ArrowLeft") return bars[Math.max(0, index - 1)];
    if (key === "ArrowRight") return bars[Math.min(bars.length - 1, index + 1)];
    if (key === "Home") return bars[0];
    if (key === "End") return bars.at(-1);
    const other = filled[filled.indexOf(lane) + (key === "ArrowDown" ? 1 : -1)];
    if (!other) return bar;
    const distance = (candidate) => Math.abs(candidate.started_at - bar.started_at);
    return this.seen(other).reduce((best, next) => (distance(next) < distance(best) ? next : best));
  }

  /** Returns a lane's attempts within the window. */
  seen(lane) {
    const since = this.timeline.view.since();
    return this.timeline.lanes.inOrder(lane).filter((bar) => (bar.ended_at ?? Infinity) >= since);
  }

  choose(bar) {
    if (!bar) return;
    this.timeline.view.select(bar.key);
    this.show(bar);
  }

  show(bar) {
    const { scroller, lanes, canvas, view, width, card, store } = this.timeline;
    const middle = lanes.middle(bar);
    if (middle === null) return;
    if (middle < scroller.scrollTop + 40) scroller.scrollTop = Math.max(0, middle - 60);
    else if (middle > scroller.scrollTop + scroller.clientHeight - 40) scroller.scrollTop = middle - scroller.clientHeight + 60;
    const box = canvas.getBoundingClientRect();
    const x = Math.max(0, Math.min(width, view.scale(width).x(bar.started_at)));
    card.show({ kind: "bar", bar }, box.left + x, box.top + middle - scroller.scrollTop + 8);
    this.spoken.textContent = barWords(bar, store);
  }
}
