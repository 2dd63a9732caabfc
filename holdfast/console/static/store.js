// The page's data: the last snapshot with every change since, limited to the window and to fixed bounds.

const BARS_KEPT = 12_000;
const EXECUTORS_KEPT = 400;
const MOVES_KEPT = 2_000;
const HISTORY_KEPT = 1_800;
// The clock follows the database's by its best (least delayed) message; a jump beyond this is a new clock.
const JUMP_SECONDS = 2;

export class Store extends EventTarget {
  constructor() {
    super();
    this.ready = false;
    this.offset = null;
    this.seenAt = null;
    this.lastGood = null;
    this.away = false;
    this.application = ""; // the page shows only this one; empty: all
    this.head = { counts: {}, database: { up: true, since: null }, last_takeover: null, window_seconds: 900 };
    this.clear();
  }

  clear() {
    this.executors = new Map();
    this.bars = new Map();
    this.moves = new Map();
    this.pulses = new Map();
    this.queues = new Map();
    this.more = {};
    this.history = [];
  }

  /** Returns the database's time in epoch seconds; this machine's time until the first message. */
  now() {
    return performance.now() / 1000 + (this.offset ?? (performance.timeOrigin / 1000));
  }

  /** Returns the time up to which the data is known. Running work is not drawn beyond it. */
  knownUntil() {
    if (this.head.database?.up === false) return this.lastGood ?? this.seenAt ?? this.now();
    return this.away ? (this.seenAt ?? this.now()) : this.now();
  }

  snapshot(document) {
    this.clear();
    this.head = {};
    this.take(document);
    this.more = document.more ?? {};
    this.ready = true;
    this.tell("snapshot");
  }

  change(document) {
    this.take(document);
    const gone = document.gone ?? {};
    for (const id of gone.executors ?? []) this.executors.delete(id);
    for (const key of gone.bars ?? []) this.bars.delete(key);
    for (const id of gone.moves ?? []) this.moves.delete(id);
    for (const name of gone.queues ?? []) this.queues.delete(name);
    Object.assign(this.more, document.more ?? {});
    this.prune();
    this.tell("change", document);
  }

  /** Records a liveness signal without data. */
  heard() {
    this.seenAt = this.now();
  }

  take(document) {
    const { executors, bars, moves, pulses, queues, queue_history: history, more, gone, ...head } = document;
    Object.assign(this.head, head);
    if (this.head.database?.up !== false) this.follow(document.now);
    for (const item of executors ?? []) put(this.executors, item.executor_id, item);
    for (const item of bars ?? []) put(this.bars, item.key, item);
    for (const item of moves ?? []) put(this.moves, item.id, item);
    for (const item of pulses ?? []) put(this.pulses, item.scheduled_at, item);
    for (const item of queues ?? []) put(this.queues, item.queue, item);
    for (const point of history ?? []) {
      const last = this.history.at(-1);
      if (last && point[0] <= last[0]) {
        if (point[0] === last[0]) this.history[this.history.length - 1] = point;
        continue;
      }
      this.history.push(point);
    }
  }

  follow(now) {
    const sample = now - performance.now() / 1000;
    if (this.offset === null || Math.abs(sample - this.offset) > JUMP_SECONDS) this.offset = sample;
    // Late messages pull the clock back only slowly: a delay in the network does not mean a slow clock.
    else this.offset = sample > this.offset ? sample : this.offset + (sample - this.offset) * 0.02;
    this.seenAt = this.now();
    this.lastGood = this.seenAt;
  }

  prune() {
    const edge = this.now() - (this.head.window_seconds ?? 900);
    for (const [key, bar] of this.bars) {
      if (bar.ended_at !== null && bar.ended_at < edge) this.bars.delete(key);
    }
    for (const [id, executor] of this.executors) {
      if (executor.ended_at !== null && executor.ended_at < edge) this.executors.delete(id);
    }
    for (const [id, move] of this.moves) {
      if (move.lost_at < edge) this.moves.delete(id);
    }
    for (const at of this.pulses.keys()) {
      if (at < edge) this.pulses.delete(at);
    }
    while (this.history.length && (this.history[0][0] < edge || this.history.length > HISTORY_KEPT)) {
      this.history.shift();
    }
    for (const [id, buckets] of Object.entries(this.more)) {
      const kept = buckets.filter(([at, seconds]) => at + seconds >= edge);
      if (kept.length) this.more[id] = kept;
      else delete this.more[id];
    }
    // Maps keep insertion order: the oldest are removed first.
    shrink(this.bars, BARS_KEPT, (bar) => bar.ended_at !== null);
    shrink(this.executors, EXECUTORS_KEPT, (executor) => executor.ended_at !== null);
    shrink(this.moves, MOVES_KEPT, () => true);
  }

  tell(kind, detail = null) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
    this.dispatchEvent(new Event("news"));
  }

  // --- queries that several parts use ------------------------------------------------------

  /** Returns the executors as lanes: workers, then the others, each in the order of their start. */
  lanes(since) {
    const rank = (executor) => (executor.role === "worker" ? 0 : 1);
    return [...this.executors.values()]
      .filter((executor) => this.chosen(executor) && (executor.ended_at === null || executor.ended_at >= since))
      .sort((a, b) => rank(a) - rank(b) || a.started_at - b.started_at || (a.executor_id < b.executor_id ? -1 : 1));
  }

  live(role) {
    return [...this.executors.values()].filter((e) => e.role === role && e.state === "live").length;
  }

  /** Whether an executor belongs to the application that the page shows. */
  chosen(executor) {
    return !this.application || executor?.application === this.application;
  }

  /** Whether there is a pulse to show: it belongs to the installation, not to one of its applications. */
  get pulsing() {
    return this.head.pulse_seconds !== null && !this.application;
  }

  /** Returns the attempts that the page shows. */
  shownBars() {
    const bars = [...this.bars.values()];
    return this.application ? bars.filter((bar) => this.chosen(this.executors.get(bar.executor_id))) : bars;
  }

  /** Returns the names of all applications with executors or unfinished work. */
  applications() {
    const names = new Set([...this.executors.values()].map((executor) => executor.application));
    for (const { application } of this.head.applications ?? []) names.add(application);
    names.delete("");
    return [...names].sort();
  }

  /** Counts the workflows that left an executor because it ended. */
  moved(executorId) {
    let found = 0;
    for (const move of this.moves.values()) {
      if (move.from === executorId && move.kind !== "adoption") found += 1;
    }
    return found;
  }

  /** Returns the attempts of a workflow, oldest first. */
  attempts(workflowId) {
    return [...this.bars.values()]
      .filter((bar) => bar.workflow_id === workflowId)
      .sort((a, b) => a.started_at - b.started_at);
  }
}

/** Updates objects in place, so that the layout computed for them stays valid. */
function put(map, key, item) {
  const known = map.get(key);
  if (known) Object.assign(known, item);
  else map.set(key, item);
}

function shrink(map, size, may) {
  if (map.size <= size) return;
  let over = map.size - size;
  for (const [key, item] of map) {
    if (over <= 0) return;
    if (may(item)) {
      map.delete(key);
      over -= 1;
    }
  }
}
