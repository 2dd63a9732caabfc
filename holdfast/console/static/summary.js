// The first line: a sentence that can be read aloud, and a warning in words if something is wrong.

import { $, say } from "./dom.js";
import { clock, count, duration, list, slotWait } from "./words.js";

const QUIET_SECONDS = 5; // while the database is available, a message arrives every 2 s
const ORPHANED_AFTER_SECONDS = 1.5; // a takeover in its usual time is not an alarm

const LOCKED = "This installation shows itself only to those with the admin token.";
const FIRST = { away: "The server does not answer yet.", locked: LOCKED };

export class Summary {
  constructor(store, live) {
    this.store = store;
    this.live = live;
    this.sentence = $("#sentence");
    this.warning = $("#warning");
    this.pulse = $("#live");
    this.orphanedSince = null;
  }

  show() {
    const { store } = this;
    if (!store.ready) {
      say(this.sentence, FIRST[this.live.state] ?? "Looking …");
    } else {
      say(this.sentence, calm(store));
      const warnings = this.warnings();
      const text = warnings.join(" ");
      // Screen readers announce the live region when its text changes. Numbers in it would be announced every second.
      if (this.warning.dataset.kind !== text.replace(/[\d.,]+ ?\w*/g, "#")) {
        this.warning.dataset.kind = text.replace(/[\d.,]+ ?\w*/g, "#");
        say($("#alarm"), text || (this.alarmed ? "All is well again." : ""));
        this.alarmed = Boolean(text);
      }
      say(this.warning, text);
      $("#trouble").hidden = !text;
      $("#stranded").hidden = this.live.state !== "live" || !store.head.counts?.stranded;
      document.title = text ? "⚠ Holdfast" : "Holdfast";
    }
    this.clock();
  }

  clock() {
    const { store, live } = this;
    const quiet = store.head.database?.up !== false && store.seenAt !== null && store.now() - store.seenAt > QUIET_SECONDS;
    const away = live.state !== "live" || quiet;
    this.pulse.dataset.state = live.state === "connecting" ? "connecting" : away ? "away" : "live";
    if (live.state === "connecting") return say(this.pulse, "○ connecting");
    if (live.state === "locked") return say(this.pulse, "○ locked");
    if (!away) return say(this.pulse, `● live ${clock(store.now())}`);
    const seen = store.seenAt === null ? "never seen" : `last seen ${duration(store.now() - store.seenAt)} ago`;
    const wait = live.retryAt === null ? 0 : live.retryAt - performance.now() / 1000;
    if (live.state === "live") return say(this.pulse, `○ ${seen}, the line is quiet`);
    return say(this.pulse, `○ ${seen}, ${wait > 0.5 ? `trying again in ${Math.ceil(wait)} s` : "trying now"}`);
  }

  warnings() {
    const { store, live } = this;
    const found = [];
    const { counts = {}, database } = store.head;
    if (live.state === "locked") return [LOCKED];
    if (live.state === "away") {
      found.push(`The server does not answer. What you see is from ${clock(store.seenAt)}; it comes back by itself.`);
      return found;
    }
    if (database?.up === false) {
      const since = duration(store.now() - (database.since ?? store.lastGood));
      return [`The database has been away for ${since}. Running work waits for it, and the figures are the last known ones.`];
    }
    if (!store.live("worker")) {
      const waiting = counts.queued ? `, and ${count(counts.queued, "workflow")} wait` : "";
      found.push(`No worker is live${waiting}. Start one: docker compose up -d worker.`);
    }
    if (counts.orphaned) {
      this.orphanedSince ??= store.now();
      if (store.now() - this.orphanedSince > ORPHANED_AFTER_SECONDS) {
        found.push(`${count(counts.orphaned, "workflow")} belonged to executors that are gone, and no peer has taken them over yet.`);
      }
    } else {
      this.orphanedSince = null;
    }
    if (counts.stranded) {
      found.push(`${count(counts.stranded, "workflow")} wait for what no live executor runs, listens to or knows: see Stranded work.`);
    }
    if (counts.parked) {
      found.push(`${count(counts.parked, "workflow")} crashed too many executors and are parked: look at them, then resume or cancel.`);
    }
    return found;
  }
}

/** Returns the live executors in words: workers and APIs, and those of each further application by its name. */
function living(executors, application) {
  const attached = new Map();
  for (const { role, application: name } of executors) {
    if (role !== "worker" && role !== "api") attached.set(name, (attached.get(name) ?? 0) + 1);
  }
  const stack = [["worker", "worker"], ["api", "API"]]
    .map(([role, word]) => [executors.filter((executor) => executor.role === role).length, word])
    .filter(([number]) => number || !application)
    .map(([number, word]) => count(number, word));
  const others = [...attached].sort().map(([name, number]) => `${number.toLocaleString("en")} of ${name}`);
  const found = [...stack, ...others];
  return found.length ? found : ["none"];
}

/** Returns the numbers of running and waiting workflows, and the longest wait: of one application, or of all. */
function work(store) {
  if (!store.application) {
    const ages = [...store.queues.values()].map((queue) => queue.oldest_age_seconds ?? 0);
    return { ...store.head.counts, oldest_age_seconds: Math.max(0, ...ages) };
  }
  const found = (store.head.applications ?? []).find((each) => each.application === store.application);
  return found ?? { running: 0, queued: 0, oldest_age_seconds: 0 };
}

/** Returns the sentence for the healthy state. */
export function calm(store) {
  const { last_takeover: last } = store.head;
  const executors = [...store.executors.values()].filter((executor) => store.chosen(executor));
  const alive = living(executors.filter((executor) => executor.state === "live"), store.application);
  const draining = executors.filter((e) => e.state === "draining").length;
  const counts = work(store);
  const oldest = counts.oldest_age_seconds;
  const queued = counts.queued
    ? `${counts.queued.toLocaleString("en")} ${counts.queued === 1 ? "waits" : `wait${oldest ? ", the oldest" : ""}`}${oldest ? ` for ${duration(oldest)}` : ""}`
    : "none waits";
  const sentences = [
    `${list(alive)} live${draining ? `, ${draining} draining` : ""}.`,
    `${count(counts.running ?? 0, "workflow")} ${counts.running === 1 ? "runs" : "run"}, ${queued}.`,
  ];
  if (last && store.chosen(store.executors.get(last.from))) {
    sentences.push(
      `Last takeover ${duration(store.now() - last.at)} ago: ${count(last.workflows, "workflow")} in ${duration(last.seconds)}${slotWait(last.slot_wait_seconds)}.`,
    );
  }
  return sentences.join(" ");
}
