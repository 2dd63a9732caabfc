// State shared by the timeline and the charts: the window, the cursor, and whether time is paused.

export const WINDOWS = [15, 60, 300, 900];
const FUTURE = 0.015; // room beyond now, as a share of the width

export class View extends EventTarget {
  constructor(store) {
    super();
    this.store = store;
    this.window = 60;
    this.frozenAt = null;
    this.cursor = null; // epoch seconds under the pointer, or null
    this.selected = null; // key of the bar that was selected by keyboard
  }

  /** Returns the right edge: now, or the time of the pause. */
  until() {
    return this.frozenAt ?? this.store.now();
  }

  since() {
    return this.until() - this.window;
  }

  /** Returns the conversions from epoch seconds to pixels and back, for a plot of `width` pixels. */
  scale(width) {
    const until = this.until();
    const perSecond = (width * (1 - FUTURE)) / this.window;
    const right = width * (1 - FUTURE);
    return {
      until,
      since: until - this.window,
      perSecond,
      x: (at) => right + (at - until) * perSecond,
      at: (x) => until + (x - right) / perSecond,
    };
  }

  choose(seconds) {
    this.window = seconds;
    this.changed();
  }

  freeze(frozen) {
    this.frozenAt = frozen ? this.store.now() : null;
    this.changed();
  }

  point(at) {
    if (this.cursor === at) return;
    this.cursor = at;
    this.dispatchEvent(new Event("cursor"));
  }

  select(key) {
    this.selected = key;
    this.changed();
  }

  changed() {
    this.dispatchEvent(new Event("changed"));
  }
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300];

/** Returns the marks of the time axis: round times, at least `apart` pixels from each other. */
export function axisTimes(scale, width, apart = 90) {
  const step = STEPS.find((seconds) => seconds * scale.perSecond >= apart) ?? 300;
  const times = [];
  for (let at = Math.ceil(scale.since / step) * step; at <= scale.until; at += step) times.push(at);
  return times;
}
