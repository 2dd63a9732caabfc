// The timeline: lane heads are elements, and the rest is drawn on one canvas that holds only the visible part.

import { $, make, say } from "./dom.js";
import { draw, hitAt } from "./draw.js";
import { Lanes } from "./lanes.js";
import { palette } from "./paint.js";
import { Keys } from "./keys.js";
import { Card } from "./card.js";
import { count, duration, EXECUTOR, shortExecutor } from "./words.js";

const HEADS_SECONDS = 0.25;
const STILL_SECONDS = 1; // interval of updates for users who prefer reduced motion

export class Timeline {
  constructor(store, view, api, openWorkflow, openExecutor) {
    this.store = store;
    this.view = view;
    this.openWorkflow = openWorkflow;
    this.openExecutor = openExecutor;
    this.lanes = new Lanes(store);
    this.canvas = $("#timeline");
    this.context = this.canvas.getContext("2d");
    this.scroller = $("#lanes");
    this.heads = $("#heads");
    this.headOf = new Map();
    this.card = new Card(store, api, () => this.redraw());
    this.keys = new Keys(this);
    this.hits = [];
    this.hover = null;
    this.stale = true;
    this.lastDraw = { at: -Infinity, pixel: null };
    this.drawMs = [];
    this.canvas.frames = 0;
    this.canvas.drawn = () => this.hits.map(noted);
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.recolour();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
    addEventListener("themechange", () => this.recolour());
    this.store.addEventListener("news", () => this.redraw());
    this.view.addEventListener("changed", () => this.redraw());
    this.view.addEventListener("cursor", () => this.redraw());
    this.scroller.addEventListener("scroll", () => this.redraw(), { passive: true });
    new ResizeObserver(() => this.measure()).observe(this.scroller);
    this.canvas.addEventListener("pointermove", (event) => this.pointed(event));
    this.canvas.addEventListener("pointerleave", () => this.left());
    this.canvas.addEventListener("click", (event) => this.clicked(event));
    this.measure();
    const frame = (time) => {
      this.tick(time / 1000);
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  recolour() {
    this.colours = palette();
    this.redraw();
  }

  redraw() {
    this.stale = true;
  }

  measure() {
    const width = Math.max(10, this.canvas.parentElement.clientWidth);
    const height = Math.max(10, this.scroller.clientHeight);
    const ratio = Math.min(2, devicePixelRatio || 1);
    if (this.width === width && this.height === height && this.ratio === ratio) return;
    Object.assign(this, { width, height, ratio });
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.redraw();
  }

  /** Draws a frame if something changed or moved by half a pixel. */
  tick(seconds) {
    if (this.scroller.offsetParent === null || document.hidden) return;
    const perSecond = this.width / this.view.window;
    const pixel = this.view.until() * perSecond;
    const moved = Math.abs(pixel - this.lastDraw.pixel) >= 0.5;
    const due = !this.still.matches || seconds - this.lastDraw.at >= STILL_SECONDS;
    if (!this.stale && !(moved && due)) return;
    const begun = performance.now();
    this.lanes.lay(this.view.since());
    this.showHeads(seconds);
    this.measure();
    this.hits = draw({
      context: this.prepared(),
      colours: this.colours,
      lanes: this.lanes,
      store: this.store,
      view: this.view,
      scale: this.view.scale(this.width),
      width: this.width,
      height: this.height,
      top: this.scroller.scrollTop,
      hover: this.hover,
      steps: this.card.steps,
    });
    this.stale = false;
    this.lastDraw = { at: seconds, pixel };
    this.timed(performance.now() - begun);
  }

  prepared() {
    this.context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    return this.context;
  }

  /** Records frame times for benchmarks: median and maximum of the last 120. */
  timed(milliseconds) {
    this.canvas.frames += 1;
    this.drawMs.push(milliseconds);
    if (this.drawMs.length < 120) return;
    const sorted = this.drawMs.sort((a, b) => a - b);
    this.canvas.dataset.frameMs = `${sorted[60].toFixed(2)} ${sorted[119].toFixed(2)}`;
    this.drawMs = [];
  }

  // --- lane heads --------------------------------------------------------------------------

  showHeads(seconds) {
    const ids = this.lanes.shown.map((lane) => lane.executor.executor_id).join();
    const layout = this.lanes.shown.map((lane) => lane.height).join() + ids;
    if (layout === this.layout && seconds - (this.headsAt ?? -1) < HEADS_SECONDS) return;
    this.headsAt = seconds;
    for (const lane of this.lanes.shown) this.head(lane);
    if (layout === this.layout) return;
    this.layout = layout;
    const wanted = new Set(this.lanes.shown.map((lane) => lane.executor.executor_id));
    for (const [id, head] of this.headOf) {
      if (wanted.has(id)) continue;
      head.element.remove();
      this.headOf.delete(id);
    }
    let before = null;
    for (const lane of [...this.lanes.shown].reverse()) {
      const { element } = this.headOf.get(lane.executor.executor_id);
      // A moved node loses its focus, so only nodes at a wrong position are moved.
      if (element.parentNode !== this.heads || element.nextSibling !== before) this.heads.insertBefore(element, before);
      before = element;
    }
    this.heads.classList.toggle("dense", this.lanes.dense);
    $("#plot").style.height = `${this.lanes.height}px`;
    const hidden = this.lanes.hidden;
    say($("#hidden-lanes"), hidden ? `${hidden} more executors that ended are not shown.` : "");
  }

  head(lane) {
    const { executor } = lane;
    let head = this.headOf.get(executor.executor_id);
    if (!head) {
      head = {
        shape: make("span", { class: "shape", "aria-hidden": "true" }),
        meta: make("span", { class: "meta" }),
        state: make("span", { class: "state" }),
      };
      head.element = make(
        "button",
        { type: "button", class: "head", title: executor.executor_id, onclick: () => this.openExecutor(executor.executor_id) },
        make("span", { class: "who" }, head.shape, make("strong", {}, shortExecutor(executor.executor_id)), head.state),
        head.meta,
      );
      this.headOf.set(executor.executor_id, head);
    }
    const { shape, word } = EXECUTOR[executor.state] ?? { shape: "?", word: executor.state };
    head.element.dataset.state = executor.state;
    head.element.style.height = `${lane.height}px`;
    say(head.shape, shape);
    say(head.state, word);
    say(head.meta, metaOf(executor, this.store));
  }

  // --- pointer -----------------------------------------------------------------------------

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top + this.scroller.scrollTop };
  }

  pointed(event) {
    const { x, y } = this.place(event);
    this.view.point(this.view.scale(this.width).at(x));
    const hit = hitAt(this.hits, x, y);
    this.hover = hit;
    this.canvas.classList.toggle("pointing", Boolean(hit?.bar));
    if (hit) this.card.show(hit, event.clientX, event.clientY);
    else this.card.hide();
  }

  left() {
    this.view.point(null);
    this.hover = null;
    this.card.hide();
  }

  clicked(event) {
    const { x, y } = this.place(event);
    const hit = hitAt(this.hits, x, y);
    if (hit?.bar) this.openWorkflow(hit.bar.workflow_id);
    else if (hit?.executor) this.openExecutor(hit.executor.executor_id);
  }
}

/** Returns what was drawn as plain data, for the browser's console and for tests of the canvas. */
function noted(hit) {
  const { kind, x, y, bar, next, executor, words, pulse, style, number } = hit;
  const lane = bar?.executor_id ?? executor?.executor_id;
  return {
    kind, x, y, lane, words, style, number,
    key: bar?.key, outcome: bar?.outcome, from: lane, to: next?.executor_id, at: pulse?.scheduled_at, status: pulse?.status,
  };
}

/** Returns the second line of a lane's head. */
export function metaOf(executor, store) {
  // Versions are named after their role ("worker-1"), which the first line shows already.
  const parts = [`v${executor.version.replace(`${executor.role}-`, "").replace(/^v/, "")}`];
  if (executor.state === "live" || executor.state === "draining") {
    parts.push(`${executor.in_flight} running${executor.slots ? ` on ${count(executor.slots, "slot")}` : ""}`);
    parts.push(`beat ${duration(store.knownUntil() - executor.heartbeat_at)}`);
  } else if (executor.ended_at !== null) {
    parts.push(`${duration(store.now() - executor.ended_at)} ago`);
  }
  return parts.join(" · ");
}
