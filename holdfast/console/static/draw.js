// Draws one frame of the timeline: everything in the window. Records what it drew, for the pointer.

import * as paint from "./paint.js";
import { AXIS_HEIGHT, PULSE_HEIGHT } from "./lanes.js";
import { axisTimes } from "./view.js";
import { clock, count, duration, endOf } from "./words.js";

const CLUSTER_PIXELS = 3;
const THREADS_DRAWN = 400;

/** Draws a frame; `frame` has context, colours, lanes, store, view, scale, width, top (scrolled), height, hover. Returns hits. */
export function draw(frame) {
  const { context, width, height, top, lanes } = frame;
  frame.hits = [];
  context.clearRect(0, 0, width, height);
  context.font = paint.FONT;
  context.textBaseline = "middle";
  context.save();
  context.translate(0, -top);
  grid(frame);
  for (const lane of lanes.shown) {
    if (lane.top + lane.height >= top && lane.top <= top + height) life(frame, lane);
  }
  threads(frame);
  for (const lane of lanes.shown) {
    if (lane.top + lane.height >= top && lane.top <= top + height) ends(frame, lane);
  }
  pulses(frame);
  unknown(frame);
  cursor(frame);
  context.restore();
  axis(frame);
  return frame.hits;
}

function grid({ context, colours, lanes, scale, width }) {
  context.fillStyle = colours.line;
  for (const at of axisTimes(scale, width)) context.fillRect(Math.round(scale.x(at)), 0, 1, lanes.height);
  for (const lane of lanes.shown) context.fillRect(0, lane.top, width, 1);
  context.fillRect(0, lanes.pulseTop, width, 1);
}

function axis({ context, colours, scale, width }) {
  context.fillStyle = colours.panel;
  context.fillRect(0, 0, width, AXIS_HEIGHT);
  context.fillStyle = colours.muted;
  for (const at of axisTimes(scale, width)) {
    const x = scale.x(at);
    if (x > 4 && x < width - 64) context.fillText(clock(at), x + 4, AXIS_HEIGHT / 2);
  }
}

function life(frame, lane) {
  const { context, colours, scale, width, store } = frame;
  const { executor } = lane;
  const from = Math.max(0, scale.x(executor.started_at));
  const to = Math.min(width, scale.x(executor.ended_at ?? store.knownUntil()));
  if (to > from) {
    context.fillStyle = colours.accentSoft;
    context.fillRect(from, lane.top + 2, to - from, lane.height - 3);
    if (executor.started_at > scale.since) {
      context.fillStyle = colours.good;
      context.fillRect(from, lane.top + 2, 2, lane.height - 3);
    }
  }
  counted(frame, lane);
  lane.rows.forEach((row, index) => bars(frame, lane, row, index));
}

/** Draws the attempts that the server only counted, as blocks behind the bars. */
function counted({ context, colours, scale, store, width, hits }, lane) {
  for (const [at, seconds, number] of store.more[lane.executor.executor_id] ?? []) {
    const x = scale.x(at);
    const wide = seconds * scale.perSecond;
    if (x + wide < 0 || x > width || number === 0) continue;
    const box = { x, y: lane.top + lane.inset, width: Math.max(1, wide - 1), height: lane.body - 2 * lane.inset };
    paint.cluster(context, colours, box, number);
    hits.push({ ...box, kind: "counted", number, at, seconds });
  }
}

function bars(frame, lane, row, index) {
  const { context, colours, scale, width, store, hits, view, hover } = frame;
  const y = lane.top + lane.inset + index * lane.rowHeight + 1;
  const height = lane.rowHeight - 2;
  const known = store.knownUntil();
  let short = null;
  const flush = () => {
    if (short === null) return;
    const box = { x: short.x, y, width: Math.max(1, short.right - short.x), height };
    if (short.bars.length === 1) paint.bar(context, colours, box, short.bars[0], { label: false });
    else paint.cluster(context, colours, box, short.bars.length);
    hits.push({ ...box, kind: short.bars.length === 1 ? "bar" : "cluster", bar: short.bars[0], bars: short.bars });
    short = null;
  };
  for (const bar of row) {
    const x = scale.x(bar.started_at);
    const right = scale.x(bar.ended_at ?? known);
    if (right < 0 || x > width) continue;
    if (right - x < CLUSTER_PIXELS && bar.outcome === "success" && bar.key !== view.selected) {
      if (short && x - short.right > 1.5) flush();
      short ??= { x, right, bars: [] };
      short.bars.push(bar);
      short.right = Math.max(short.right, right);
      continue;
    }
    flush();
    const box = { x: Math.max(-8, x), y, width: Math.max(2, right - Math.max(-8, x) - 1), height };
    paint.bar(context, colours, box, bar, { chosen: bar.key === view.selected || bar === hover?.bar });
    steps(frame, bar, box);
    hits.push({ ...box, kind: "bar", bar });
  }
  flush();
}

/** Draws marks of recorded steps, if they are known and far enough apart. */
function steps({ context, colours, scale, steps: known }, bar, box) {
  const times = known?.get(bar.workflow_id);
  if (!times || box.height < 12) return;
  context.fillStyle = bar.outcome === "running" ? colours.onAccent : colours.barText;
  let last = -Infinity;
  for (const at of times) {
    if (at <= bar.started_at || (bar.ended_at !== null && at >= bar.ended_at)) continue;
    const x = scale.x(at);
    if (x - last < 3) continue;
    context.fillRect(x, box.y + box.height - 4, 1, 4);
    last = x;
  }
}

function threads({ context, colours, scale, lanes, store, view, hover, width, hits }) {
  let drawn = 0;
  for (const bar of store.bars.values()) {
    if (!bar.next || bar.ended_at === null || drawn >= THREADS_DRAWN) continue;
    const next = store.bars.get(bar.next);
    if (!next) continue;
    const from = { x: scale.x(bar.ended_at), y: lanes.middle(bar) };
    const to = { x: scale.x(next.started_at), y: lanes.middle(next) };
    if (from.y === null || to.y === null || to.x < -20 || from.x > width) continue;
    const chosen = [view.selected, hover?.bar?.key].some((key) => key === bar.key || key === next.key);
    paint.thread(context, colours, from, to, bar.outcome, chosen);
    // Recorded, but not for the pointer: a line is too thin to point at.
    hits.push({ x: NaN, kind: "thread", bar, next, style: bar.outcome === "handed_over" ? "dashed" : "through" });
    drawn += 1;
  }
}

function ends(frame, lane) {
  const { context, colours, scale, width, store, hits } = frame;
  const { executor } = lane;
  const at = executor.lost_at ?? executor.ended_at;
  if (at === null || (executor.state !== "dead" && executor.state !== "drained")) return;
  const x = scale.x(at);
  if (x < -10 || x > width + 10) return;
  const y = lane.top + lane.body / 2;
  const drained = executor.state === "drained";
  paint.end(context, colours, x, y, drained, lane.top + 2, lane.body - 3);
  const words = endOf(executor, store.moved(executor.executor_id));
  const box = paint.plate(context, colours, words, x - 14, lane.top + lane.body + 8, width - 4, drained ? colours.warn : colours.bad);
  hits.push({ ...box, kind: "end", executor, words });
}

function pulses({ context, colours, scale, store, lanes, width, hits }) {
  const y = lanes.pulseTop + PULSE_HEIGHT / 2;
  for (const pulse of store.pulsing ? store.pulses.values() : []) {
    const x = scale.x(pulse.scheduled_at);
    if (x < -6 || x > width) continue;
    if (pulse.status === "run") {
      context.fillStyle = colours.muted;
      context.fillRect(x - 0.75, y - 6, 1.5, 12);
    } else {
      context.fillStyle = colours.bad;
      context.beginPath();
      context.arc(x, y, 3, 0, Math.PI * 2);
      context.fill();
    }
    hits.push({ x: x - 5, y: y - 9, width: 10, height: 18, kind: "pulse", pulse });
  }
}

/** Marks the time after the last message as unknown, in place of drawing it as if it were known. */
function unknown({ context, colours, scale, store, lanes, width }) {
  if (!store.away && store.head.database?.up !== false) return;
  const from = Math.max(0, scale.x(store.knownUntil()));
  if (from >= width) return;
  context.save();
  context.beginPath();
  context.rect(from, AXIS_HEIGHT, width - from, lanes.height);
  context.clip();
  context.strokeStyle = colours.muted;
  context.globalAlpha = 0.35;
  context.lineWidth = 1;
  context.beginPath();
  for (let x = from - lanes.height; x < width; x += 9) {
    context.moveTo(x, AXIS_HEIGHT + lanes.height);
    context.lineTo(x + lanes.height, AXIS_HEIGHT);
  }
  context.stroke();
  context.restore();
  const words = `nothing known for ${duration(store.now() - store.knownUntil())}`;
  paint.plate(context, colours, words, from - 10, AXIS_HEIGHT + 16, width - 4, colours.muted);
}

function cursor({ context, colours, scale, lanes, view }) {
  if (view.cursor === null) return;
  context.fillStyle = colours.text;
  context.globalAlpha = 0.35;
  context.fillRect(Math.round(scale.x(view.cursor)), AXIS_HEIGHT, 1, lanes.height - AXIS_HEIGHT);
  context.globalAlpha = 1;
}

/** Returns what lies under a point, the last drawn first. */
export function hitAt(hits, x, y) {
  for (let index = hits.length - 1; index >= 0; index -= 1) {
    const hit = hits[index];
    if (x >= hit.x - 1 && x <= hit.x + hit.width + 1 && y >= hit.y && y <= hit.y + hit.height) return hit;
  }
  return null;
}

/** "×37 workflows within 5 s". */
export function countedWords(hit) {
  return `${count(hit.number ?? hit.bars.length, "workflow")}${hit.seconds ? ` within ${duration(hit.seconds)}` : " too short to tell apart"}`;
}
