// Layout: lanes one below the other, and in a lane one row for each attempt that runs concurrently with others.

const ROWS = 6;
const ROOMY = { row: 19, pad: 8, least: 58 };
const DENSE = { row: 7, pad: 4, least: 36 };
const WORDS = 24; // below the bars of a lane that ended: how it ended, in words that cover nothing
const DENSE_FROM = 13;
const LANES_SHOWN = 80;
export const PULSE_HEIGHT = 34;
export const AXIS_HEIGHT = 26;

export class Lanes {
  constructor(store) {
    this.store = store;
    this.byId = new Map();
    this.shown = [];
    this.hidden = 0;
    this.height = 0;
    this.dense = false;
  }

  /** Computes the layout again. An attempt that has a row keeps it, so this is cheap and nothing jumps. */
  lay(since) {
    const executors = this.store.lanes(since);
    this.hidden = Math.max(0, executors.length - LANES_SHOWN);
    // Too many lanes: those that ended first are removed first.
    const shown = this.hidden
      ? new Set([...executors].sort((a, b) => (b.ended_at ?? Infinity) - (a.ended_at ?? Infinity)).slice(0, LANES_SHOWN))
      : new Set(executors);
    this.dense = shown.size >= DENSE_FROM;
    const former = this.byId;
    this.byId = new Map();
    this.shown = executors.filter((executor) => shown.has(executor)).map((executor) => {
      const lane = former.get(executor.executor_id) ?? { rowCount: 1 };
      lane.executor = executor;
      lane.rows = Array.from({ length: ROWS }, () => []);
      this.byId.set(executor.executor_id, lane);
      return lane;
    });
    for (const bar of this.store.bars.values()) this.place(bar);
    const measure = this.dense ? DENSE : ROOMY;
    let top = AXIS_HEIGHT;
    for (const lane of this.shown) {
      lane.rowHeight = measure.row;
      lane.pad = measure.pad;
      lane.top = top;
      lane.body = Math.max(measure.least, lane.rowCount * measure.row + 2 * measure.pad);
      lane.inset = (lane.body - lane.rowCount * measure.row) / 2;
      lane.height = lane.body + (lane.executor.ended_at === null ? 0 : WORDS);
      top += lane.height;
    }
    this.pulseTop = top;
    this.height = top + (this.store.pulsing ? PULSE_HEIGHT : 0);
    return this;
  }

  place(bar) {
    const lane = this.byId.get(bar.executor_id);
    if (!lane) return;
    if (bar.row === undefined) bar.row = freeRow(lane.rows, bar);
    lane.rows[bar.row].push(bar);
    if (bar.row >= lane.rowCount) lane.rowCount = bar.row + 1;
  }

  /** Returns the vertical middle of a bar; null if its lane is not shown. */
  middle(bar) {
    const lane = this.byId.get(bar.executor_id);
    return lane ? lane.top + lane.inset + (bar.row + 0.5) * lane.rowHeight : null;
  }

  /** Returns a lane's attempts in the order of their start. */
  inOrder(lane) {
    return lane.rows.flat().sort((a, b) => a.started_at - b.started_at || a.row - b.row);
  }
}

/** Returns the first row whose last attempt had ended by then; if all are in use, the one that ends first. */
function freeRow(rows, bar) {
  let best = 0;
  let bestEnd = Infinity;
  for (let row = 0; row < rows.length; row += 1) {
    const last = rows[row].at(-1);
    const end = last ? (last.ended_at ?? Infinity) : -Infinity;
    if (end <= bar.started_at + 0.002) return row;
    if (end < bestEnd) {
      bestEnd = end;
      best = row;
    }
  }
  return best;
}
