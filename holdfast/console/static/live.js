// The stream of events. It is read with fetch instead of EventSource, so that comments count as liveness signals,
// the page resumes from the last id on its own connection, and a refusal shows its status.

const SILENCE_SECONDS = 12; // the server says "still here" every 10 s
const FIRST_PAUSE_SECONDS = 0.5;
const LONGEST_PAUSE_SECONDS = 15;
const HIDDEN_SECONDS = 60;
const POLL_SECONDS = 3;

export class Live extends EventTarget {
  constructor(store, api) {
    super();
    this.store = store;
    this.api = api;
    this.state = "connecting";
    this.lastId = null;
    this.failures = 0;
    this.retryAt = null;
    this.abort = null;
    this.wake = null;
    this.hiddenTimer = 0;
    document.addEventListener("visibilitychange", () => this.visibility());
    addEventListener("online", () => this.retryNow());
    api.addEventListener("token", () => this.state === "locked" && api.token && this.retryNow());
  }

  /** Follows the stream forever. */
  async run() {
    for (;;) {
      if (this.asleep) {
        await this.rest(Infinity);
        continue;
      }
      try {
        if (await this.follow()) continue;
      } catch (error) {
        if (error.status === 401) {
          this.become("locked");
          await this.rest(Infinity);
          continue;
        }
        // For any other failure of the stream, retry.
      }
      if (this.asleep) continue;
      this.failures += 1;
      const bound = Math.min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (this.failures - 1));
      const pause = bound * (0.5 + Math.random() / 2);
      this.retryAt = performance.now() / 1000 + pause;
      this.become("away");
      await this.rest(pause);
    }
  }

  /** Follows one stream to its end. Returns true if it ended cleanly and needs no back-off. */
  async follow() {
    this.abort = new AbortController();
    const headers = { Accept: "text/event-stream" };
    if (this.lastId) headers["Last-Event-ID"] = this.lastId;
    let timer = 0;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.abort.abort(), SILENCE_SECONDS * 1000);
    };
    try {
      let response;
      try {
        // The time limit starts with the answer: before that, the user may be looking for the token.
        response = await this.api.call("/console/events", { headers, cache: "no-store", abort: this.abort });
      } catch (error) {
        if (error.status === 503 && (await this.poll())) return true;
        throw error;
      }
      alive();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return false;
        alive();
        text += value;
        const blocks = text.split("\n\n");
        text = blocks.pop();
        for (const block of blocks) this.receive(block);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  receive(block) {
    let kind = "message";
    let id = null;
    const data = [];
    for (const line of block.split("\n")) {
      if (line.startsWith("data:")) data.push(line.slice(5));
      else if (line.startsWith("event:")) kind = line.slice(6).trim();
      else if (line.startsWith("id:")) id = line.slice(3).trim();
    }
    if (data.length) {
      const document = JSON.parse(data.join("\n"));
      if (kind === "snapshot") this.store.snapshot(document);
      else if (kind === "change" && this.store.ready) this.store.change(document);
      this.lastId = id ?? this.lastId;
    } else if (this.store.ready) {
      this.store.heard();
    }
    if (this.store.ready) {
      this.failures = 0;
      this.become("live");
    }
  }

  /** If all permits for streams are in use, polls a snapshot instead. Returns true if one came. */
  async poll() {
    try {
      const response = await this.api.call("/console/snapshot", { cache: "no-store" });
      this.store.snapshot(await response.json());
    } catch (error) {
      if (error.status > 401) return false;
      throw error;
    }
    this.lastId = null;
    this.failures = 0;
    this.become("live");
    await this.rest(POLL_SECONDS);
    return true;
  }

  become(state) {
    if (state === "live") this.retryAt = null;
    if (this.state === state) return;
    this.state = state;
    this.store.away = state !== "live";
    this.dispatchEvent(new Event("state"));
  }

  retryNow() {
    this.wake?.();
  }

  rest(seconds) {
    return new Promise((resolve) => {
      const timer = Number.isFinite(seconds) ? setTimeout(resolve, seconds * 1000) : 0;
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** A hidden tab releases its permit. It resumes where it was when it becomes visible again. */
  visibility() {
    clearTimeout(this.hiddenTimer);
    if (document.hidden) {
      this.hiddenTimer = setTimeout(() => {
        this.asleep = true;
        this.abort?.abort();
      }, HIDDEN_SECONDS * 1000);
    } else {
      this.asleep = false;
      this.wake?.();
    }
  }
}
