// Wording and number formats: all texts about a state come from here, so that they are consistent.

export const EXECUTOR = {
  live: { shape: "●", word: "live" },
  draining: { shape: "◐", word: "draining" },
  drained: { shape: "○", word: "drained" },
  dead: { shape: "✖", word: "dead" },
};

/** The outcomes of an attempt. `tone` selects the colour, which is never the only sign of a state. */
export const OUTCOME = {
  running: { shape: "▶", word: "running", tone: "accent" },
  success: { shape: "✓", word: "succeeded", tone: "plain" },
  error: { shape: "!", word: "failed", tone: "bad" },
  cancelled: { shape: "⊘", word: "cancelled", tone: "plain" },
  lost: { shape: "✖", word: "lost with its executor", tone: "bad" },
  handed_over: { shape: "»", word: "handed over", tone: "warn" },
  parked: { shape: "■", word: "parked as poison", tone: "bad" },
};

/** The statuses of a stored workflow, as in DBOS. */
export const STATUS = {
  DELAYED: { shape: "…", word: "delayed", tone: "plain" },
  ENQUEUED: { shape: "…", word: "waiting", tone: "plain" },
  PENDING: { shape: "▶", word: "running", tone: "accent" },
  SUCCESS: { shape: "✓", word: "succeeded", tone: "good" },
  ERROR: { shape: "!", word: "failed", tone: "bad" },
  CANCELLED: { shape: "⊘", word: "cancelled", tone: "plain" },
  MAX_RECOVERY_ATTEMPTS_EXCEEDED: { shape: "■", word: "parked", tone: "bad" },
};

/** Maps an attempt's outcome to the status of its workflow, as far as bars show it. */
export const STATUS_OF_OUTCOME = {
  running: "PENDING",
  success: "SUCCESS",
  error: "ERROR",
  cancelled: "CANCELLED",
  lost: "ENQUEUED",
  handed_over: "ENQUEUED",
  parked: "MAX_RECOVERY_ATTEMPTS_EXCEEDED",
};

/** "0.34 s", "12 s", "3 min", "2 h": formats a duration with as many digits as needed. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  const value = Math.max(0, seconds);
  if (value < 0.995) return `${value.toFixed(2)} s`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (value < 119.5) return `${Math.round(value)} s`;
  if (value < 7170) return `${Math.round(value / 60)} min`;
  if (value < 172_800) return `${Math.round(value / 3600)} h`;
  return `${Math.round(value / 86_400)} days`;
}

/** "1 workflow", "24 workflows". */
export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

/** "a, b and c". */
export function list(items) {
  return items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;
}

/** Shortens an executor's id to its role and the part that differs. The title has the whole id. */
export function shortExecutor(id) {
  const parts = /^([a-z]+)-.*-([0-9a-f]{8})$/.exec(id ?? "");
  return parts ? `${parts[1]} …${parts[2]}` : id || "nobody";
}

/** Returns the executor of a workflow. A waiting one is stored with the process that enqueued it, not its executor. */
export function holder(status, executorId) {
  return executorId && status !== "ENQUEUED" && status !== "DELAYED" ? shortExecutor(executorId) : "nobody yet";
}

/** Shortens a long workflow id by its middle. */
export function shortId(id, length = 26) {
  return id.length <= length ? id : `${id.slice(0, length - 9)}…${id.slice(-8)}`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});

/** Formats epoch seconds as local time of day. */
export function clock(seconds) {
  return CLOCK.format(seconds * 1000);
}

/** Converts an ISO text to epoch seconds; null for null. */
export function epoch(text) {
  return text ? Date.parse(text) / 1000 : null;
}

/** Returns how long released work waited until an executor had a free slot for it; "" if that was not long. */
export function slotWait(seconds) {
  return seconds >= 0.5 ? `, then waited up to ${duration(seconds)} for a free slot` : "";
}

/** Returns the text beside the end of an executor, given the number of workflows that moved. */
export function endOf(executor, moved, by = executor.taken_over_by) {
  if (executor.state === "drained") {
    return moved ? `drained, handed over ${count(moved, "workflow")}` : "drained, nothing left to hand over";
  }
  const reason = executor.reason || "silent";
  if (!by) return `${reason}, waiting for a peer to take over`;
  return `${reason}, taken over in ${duration(executor.takeover_seconds)} by ${shortExecutor(by)} (${moved})`;
}
