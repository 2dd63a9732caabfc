// Shows a workflow's events and streams, and sends it a message.

import { segment } from "./address.js";
import { $, make, say } from "./dom.js";
import { clock, count } from "./words.js";

const EVENTS = 50;
const STREAMS = 20;
const LAST_VALUES = 20;
const ENDED = ["SUCCESS", "ERROR", "CANCELLED"];

export class Messages {
  constructor(api, actions) {
    this.api = api;
    this.shown = "";
    this.workflow = null;
    $("#message-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      if (!this.workflow) return;
      const sent = await actions.message(this.workflow, $("#message-topic").value, $("#message").value);
      if (sent) $("#message").value = "";
    });
  }

  /** Reads the data that `show` needs. */
  read(path) {
    return Promise.all([this.api.get(`${path}/events?limit=${EVENTS}`), this.api.get(`${path}/streams?limit=${STREAMS}`)]);
  }

  show(workflow, [events, streams]) {
    this.workflow = workflow;
    const ended = ENDED.includes(workflow.status);
    for (const field of ["#do-message", "#message", "#message-topic"]) $(field).disabled = ended;
    say($("#why-message"), ended ? "It has ended: nothing receives a message any more." : "JSON or text, for DBOS.recv of this topic.");
    const text = JSON.stringify([workflow.workflow_id, events, streams]);
    if (text === this.shown) return; // unchanged: keep focus, scroll position and open parts
    this.shown = text;
    $("#said").hidden = !events.events.length && !streams.streams.length;
    const open = new Set([...$("#streams").querySelectorAll("details[open]")].map((details) => details.dataset.key));
    $("#events").replaceChildren(...events.events.flatMap((event) => [make("dt", {}, event.key), make("dd", {}, make("code", {}, words(event)))]), ...rest(events, "dd"));
    if (!events.events.length) $("#events").append(make("dd", { class: "quiet" }, "none"));
    $("#streams").replaceChildren(...streams.streams.map((stream) => this.stream(stream, open)), ...rest(streams, "li"));
    if (!streams.streams.length) $("#streams").append(make("li", { class: "quiet" }, "none"));
  }

  stream({ key, length, closed }, open) {
    const values = make("pre", { tabindex: "0" });
    const details = make(
      "details",
      { data: { key } },
      make("summary", {}, make("b", {}, key), make("span", { class: "quiet" }, ` ${count(length, "value")}, ${closed ? "closed" : "open"}`)),
      values,
    );
    details.addEventListener("toggle", () => details.open && this.last(key, length, values));
    details.open = open.has(key);
    return make("li", {}, details);
  }

  /** Reads the last values of a stream. The API sends them as events, and would continue with later ones. */
  async last(key, length, values) {
    const offset = Math.max(0, length - LAST_VALUES);
    const lines = offset ? [`… ${count(offset, "value")} before these`] : [];
    const abort = new AbortController();
    const path = `/workflows/${segment(this.workflow.workflow_id)}/streams/${segment(key)}?offset=${offset}`;
    say(values, "Looking …");
    try {
      const response = length ? await this.api.call(path, { headers: { Accept: "text/event-stream" }, cache: "no-store", abort }) : null;
      const reader = response?.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      let last = offset - 1;
      while (reader && last < length - 1) {
        const { value, done } = await reader.read();
        if (done) break;
        const blocks = (text + value).split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          if (!/^event: value$/m.test(block)) continue;
          const stored = JSON.parse(/^data: (.*)$/m.exec(block)[1]);
          last = stored.offset;
          lines.push(`${stored.offset}: ${words(stored)}`);
        }
      }
      say(values, lines.join("\n") || "none");
    } catch (error) {
      say(values, error.message);
    } finally {
      abort.abort();
    }
  }
}

/** Describes what a workflow waits for; null if it does not wait. `now`: the database's time. */
export function waitingFor({ waiting }, now) {
  if (!waiting) return null;
  const subject = waiting.subject;
  const what = {
    sleep: "",
    delay: " for its delay to end",
    message: subject ? ` for message '${subject}'` : " for a message",
    queue: ` in queue ${subject}`,
  }[waiting.kind] ?? ` for ${waiting.kind} ${subject}`;
  const until = waiting.until ? Date.parse(waiting.until) / 1000 : null;
  const day = until !== null && until - now > 43_200 ? `${new Date(until * 1000).toLocaleDateString()} ` : "";
  return `Waiting${what}${until === null ? "" : ` until ${day}${clock(until)}`}`;
}

function words({ value, shortened, bytes, format }) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  const foreign = format === "portable_json" ? "" : ` (${format}, not loaded)`;
  return `${text}${shortened ? ` … (${bytes.toLocaleString("en")} bytes)` : ""}${foreign}`;
}

function rest(page, tag) {
  return page.next_after === null ? [] : [make(tag, { class: "quiet" }, "and more")];
}
