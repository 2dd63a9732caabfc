// Drawing primitives of the timeline: bars, ends, marks. Colours come from the style sheet's variables.

import { visible } from "./dom.js";

const NAMES = ["accent", "accent-soft", "bar", "bar-edge", "bar-text", "text", "muted", "line", "panel", "good", "warn", "bad", "focus", "on-accent"];
export const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

export function palette() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(NAMES.map((name) => [name.replace(/-(\w)/g, (_, c) => c.toUpperCase()), style.getPropertyValue(`--${name}`).trim()]));
}

const widths = new Map();

/** Returns the width of a text. Cached, because labels repeat. */
export function textWidth(context, text) {
  let width = widths.get(text);
  if (width === undefined) {
    if (widths.size > 5000) widths.clear();
    width = context.measureText(text).width;
    widths.set(text, width);
  }
  return width;
}

/** Draws one attempt. The shape of its end shows its outcome: arrow, tear, chevron, hatch, outline. */
export function bar(context, colours, box, attempt, { label = true, chosen = false } = {}) {
  const { x, y, width, height } = box;
  const running = attempt.outcome === "running";
  const lost = attempt.outcome === "lost";
  const radius = Math.min(3, width / 2, height / 2);
  context.beginPath();
  if (lost && width > 5) tear(context, x, y, width, height);
  else if (attempt.outcome === "handed_over" && width > 8) chevron(context, x, y, width, height);
  else context.roundRect(x, y, width, height, radius);
  context.fillStyle = running ? colours.accent : lost || attempt.outcome === "error" || attempt.outcome === "parked" ? colours.panel : colours.bar;
  if (attempt.outcome === "cancelled") context.fillStyle = colours.panel;
  context.fill();
  if (attempt.outcome === "success" && width < 4) return;
  context.lineWidth = 1;
  context.strokeStyle = running ? colours.accent : toneOf(colours, attempt.outcome);
  if (attempt.outcome === "cancelled") context.setLineDash([3, 2]);
  context.stroke();
  context.setLineDash([]);
  if (chosen) {
    context.lineWidth = 2;
    context.strokeStyle = colours.focus;
    context.strokeRect(x - 2, y - 2, width + 4, height + 4);
  }
  if (!label || height < 12 || width < 30) return;
  const mark = { error: "! ", parked: "■ ", cancelled: "⊘ " }[attempt.outcome] ?? "";
  const text = `${mark}${attempt.label}${attempt.attempt > 1 ? ` · ${attempt.attempt}` : ""}`;
  context.fillStyle = running ? colours.onAccent : colours.barText;
  // The label of a bar that began before the window starts at the window's edge.
  const from = Math.max(x, 0) + 6;
  written(context, text, from, y + height / 2 + 0.5, x + width - from - 4);
}

/** Draws text within a width: whole, shortened, or not at all. */
export function written(context, text, x, y, room) {
  let shown = visible(text);
  if (textWidth(context, shown) > room) {
    const fits = Math.floor((room / textWidth(context, shown)) * shown.length) - 1;
    if (fits < 8) return; // "fib…" would not help
    shown = `${shown.slice(0, fits)}…`;
  }
  context.fillText(shown, x, y);
}

function toneOf(colours, outcome) {
  if (outcome === "lost" || outcome === "error" || outcome === "parked") return colours.bad;
  return outcome === "handed_over" ? colours.warn : colours.barEdge;
}

function tear(context, x, y, width, height) {
  const right = x + width;
  context.moveTo(x, y);
  context.lineTo(right, y);
  const teeth = height > 10 ? 4 : 2;
  for (let tooth = 1; tooth <= teeth; tooth += 1) {
    context.lineTo(tooth % 2 ? right - 4 : right, y + (height * tooth) / teeth);
  }
  context.lineTo(x, y + height);
  context.closePath();
}

function chevron(context, x, y, width, height) {
  context.moveTo(x, y);
  context.lineTo(x + width - 5, y);
  context.lineTo(x + width, y + height / 2);
  context.lineTo(x + width - 5, y + height);
  context.lineTo(x, y + height);
  context.closePath();
}

/** Draws several attempts that are too short to distinguish. */
export function cluster(context, colours, box, number) {
  context.fillStyle = colours.bar;
  context.fillRect(box.x, box.y, box.width, box.height);
  context.fillStyle = colours.barEdge;
  for (let x = box.x + 2; x < box.x + box.width - 1; x += 4) context.fillRect(x, box.y, 1, box.height);
  const text = `×${number}`;
  const width = textWidth(context, text);
  if (box.height < 12 || box.width < width + 6) return;
  context.fillStyle = colours.bar;
  context.fillRect(box.x + 1, box.y + 1, width + 5, box.height - 2);
  context.fillStyle = colours.barText;
  context.fillText(text, box.x + 3, box.y + box.height / 2 + 0.5);
}

/** Draws the line from an interrupted attempt to its continuation: solid for a takeover, dashed for a handover. */
export function thread(context, colours, from, to, kind, strong) {
  const takeover = kind !== "handed_over";
  context.beginPath();
  context.moveTo(from.x, from.y);
  const bend = Math.max(10, Math.min(60, Math.abs(to.x - from.x) / 2 + 10));
  context.bezierCurveTo(from.x + bend, from.y, to.x - bend, to.y, to.x, to.y);
  context.strokeStyle = takeover ? colours.bad : colours.warn;
  context.lineWidth = strong ? 2.5 : 1.5;
  context.setLineDash(takeover ? [] : [4, 3]);
  context.stroke();
  context.setLineDash([]);
  context.beginPath();
  context.arc(to.x, to.y, strong ? 4 : 3, 0, Math.PI * 2);
  context.fillStyle = takeover ? colours.bad : colours.warn;
  context.fill();
}

/** Marks the end of an executor: a cross for a death, an open ring for a drain. */
export function end(context, colours, x, y, drained, top, height) {
  context.fillStyle = drained ? colours.warn : colours.bad;
  context.fillRect(Math.round(x) - 0.5, top, 1.5, height);
  context.fillStyle = colours.panel;
  context.beginPath();
  context.arc(x, y, 10, 0, Math.PI * 2);
  context.fill();
  context.lineWidth = 2.5;
  context.strokeStyle = drained ? colours.warn : colours.bad;
  context.beginPath();
  if (drained) {
    context.arc(x, y, 5, 0, Math.PI * 2);
  } else {
    context.moveTo(x - 5, y - 5);
    context.lineTo(x + 5, y + 5);
    context.moveTo(x + 5, y - 5);
    context.lineTo(x - 5, y + 5);
  }
  context.stroke();
}

/** Draws text on a plate, right of `x` if there is room, else left of it. Returns its box. */
export function plate(context, colours, text, x, y, right, tone) {
  const shown = visible(text);
  const width = context.measureText(shown).width + 16;
  const left = Math.max(2, Math.min(x + 12, right - width));
  context.beginPath();
  context.roundRect(left, y - 11, width, 22, 4);
  context.fillStyle = colours.panel;
  context.fill();
  context.lineWidth = 1;
  context.strokeStyle = tone;
  context.stroke();
  context.fillStyle = colours.text;
  context.fillText(shown, left + 8, y + 0.5);
  return { x: left, y: y - 11, width, height: 22 };
}
