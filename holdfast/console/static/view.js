// What timeline and charts share: the window, the cursor, and whether time stands still.

export const WINDOWS = [15, 60, 300, 900];
const FUTURE = 0.015; // a little room beyond now, as a share of the width

export class View extends EventTarget {
  constructor(store) {
    super();
    this.store = store;
    this.window = 60;
    this.frozenAt = null;
    this.cursor = null; // epoch seconds under the pointer, or null
    this.selected = null; // key of the bar that was chosen by keyboard
  }

  /** The right edge: now, or when time was stopped. */
  until() {
    return this.frozenAt ?? this.store.now();
  }

  since() {
    return this.until() - this.window;
  }

  /** Epoch seconds to pixels and back, for a plot of `width` pixels. */
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

/** Where the marks of the time axis stand: round times, never closer than `apart` pixels. */
export function axisTimes(scale, width, apart = 90) {
  const step = STEPS.find((seconds) => seconds * scale.perSecond >= apart) ?? 300;
  const times = [];
  for (let at = Math.ceil(scale.since / step) * step; at <= scale.until; at += step) times.push(at);
  return times;
}
