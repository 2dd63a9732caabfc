// Charts of the queues' depth and age, with the timeline's window and cursor.

import { $, say } from "./dom.js";
import { FONT, palette } from "./paint.js";
import { count, duration } from "./words.js";

const HEIGHT = 92;

class Chart {
  constructor(name, column, words) {
    this.canvas = $(`#chart-${name}`);
    this.value = $(`#value-${name}`);
    this.context = this.canvas.getContext("2d");
    this.column = column;
    this.words = words;
  }

  draw(store, view, colours) {
    const width = this.canvas.parentElement.clientWidth;
    const ratio = Math.min(2, devicePixelRatio || 1);
    if (this.canvas.width !== Math.round(width * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = HEIGHT * ratio;
      this.canvas.style.width = `${width}px`;
      this.canvas.style.height = `${HEIGHT}px`;
    }
    const scale = view.scale(width);
    // Points from before the reader started have no age. They are omitted, not drawn as zero.
    const history = store.history.filter((point) => point[this.column] !== null);
    const points = visible(history, scale.since);
    const { context } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, HEIGHT);
    const top = points.reduce((most, point) => Math.max(most, point[this.column] ?? 0), 0);
    const highest = ceiling(Math.max(top, 1));
    const y = (value) => HEIGHT - 6 - ((value ?? 0) / highest) * (HEIGHT - 28);
    context.fillStyle = colours.line;
    for (const value of [0, highest]) context.fillRect(0, Math.round(y(value)), width, 1);
    this.line(points, scale, y, colours, store.knownUntil());
    context.font = FONT;
    context.textBaseline = "bottom";
    context.fillStyle = colours.muted;
    context.fillText(this.words(highest), 2, y(highest) - 2);
    if (view.cursor !== null) {
      context.fillStyle = colours.text;
      context.globalAlpha = 0.35;
      context.fillRect(Math.round(scale.x(view.cursor)), 14, 1, HEIGHT - 18);
      context.globalAlpha = 1;
    }
    const at = view.cursor === null ? history.at(-1) : under(history, view.cursor);
    say(this.value, at ? this.words(at[this.column] ?? 0) : "–");
  }

  line(points, scale, y, colours, known) {
    if (!points.length) return;
    const { context } = this;
    context.beginPath();
    points.forEach((point, index) => {
      const x = scale.x(point[0]);
      // A step function: between two polls the last value holds, and no slope is invented.
      if (index) context.lineTo(x, y(points[index - 1][this.column]));
      context[index ? "lineTo" : "moveTo"](x, y(point[this.column]));
    });
    const end = scale.x(Math.max(known, points.at(-1)[0]));
    context.lineTo(end, y(points.at(-1)[this.column]));
    context.strokeStyle = colours.accent;
    context.lineWidth = 1.5;
    context.stroke();
    context.lineTo(end, y(0));
    context.lineTo(scale.x(points[0][0]), y(0));
    context.closePath();
    context.fillStyle = colours.accentSoft;
    context.fill();
  }
}

/** Returns the points within the window, and the one before it, where the line starts. */
function visible(history, since) {
  const first = history.findIndex((point) => point[0] >= since);
  return first < 0 ? history.slice(-1) : history.slice(Math.max(0, first - 1));
}

function under(history, at) {
  let found = null;
  for (const point of history) {
    if (point[0] > at) break;
    found = point;
  }
  return found;
}

/** Returns the next round number: 1, 2, 5, 10, 20, 50, … */
export function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((round) => round >= value);
}

export class Charts {
  constructor(store, view) {
    this.store = store;
    this.view = view;
    this.charts = [
      new Chart("depth", 1, (value) => count(Math.round(value), "waiting", "waiting")),
      new Chart("age", 2, duration),
    ];
    this.recolour();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
    addEventListener("themechange", () => this.recolour());
    const canvas = this.charts[0].canvas.closest(".charts");
    canvas.addEventListener("pointermove", (event) => {
      const box = this.charts[0].canvas.getBoundingClientRect();
      view.point(view.scale(box.width).at(event.clientX - box.left));
    });
    canvas.addEventListener("pointerleave", () => view.point(null));
    view.addEventListener("cursor", () => this.draw());
    view.addEventListener("changed", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  recolour() {
    this.colours = palette();
    this.draw();
  }

  draw() {
    if (!this.store.ready || document.hidden) return;
    for (const chart of this.charts) chart.draw(this.store, this.view, this.colours);
  }
}
