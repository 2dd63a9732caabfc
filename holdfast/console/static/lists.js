// Recent workflows: live rows from the stream's data, or stored rows page by page from the API.

import { segment } from "./address.js";
import { $, badge, make, say, throttled } from "./dom.js";
import { count, duration, epoch, holder, shortExecutor, shortId, STATUS, STATUS_OF_OUTCOME } from "./words.js";

const PAGE = 25;
const SEARCH_MS = 300;

export class Lists {
  constructor(store, api) {
    this.store = store;
    this.api = api;
    this.body = $("#rows");
    this.form = $("#filter");
    this.page = 0;
    this.cursors = [null];
    this.stored = [];
    this.names = new Set();
    const search = throttled(() => this.restart(), SEARCH_MS);
    this.form.addEventListener("input", search);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.restart();
    });
    $("#newer").addEventListener("click", () => this.turn(-1));
    $("#older").addEventListener("click", () => this.turn(1));
  }

  get filter() {
    const { search, status, name, source } = this.form.elements;
    return { search: search.value.trim(), status: status.value, name: name.value, source: source.value };
  }

  restart() {
    this.page = 0;
    this.cursors = [null];
    return this.show(true);
  }

  turn(by) {
    this.page += by;
    return this.show(true);
  }

  /** Live rows follow the stream. Stored rows are read on request only, so that open pages cost nothing. */
  async show(asked = false) {
    this.knowNames();
    const { source } = this.filter;
    if (source === "live") return this.render(this.live());
    if (asked || !this.loaded) {
      this.loaded = true;
      await this.load();
    }
    return this.render(this.stored);
  }

  knowNames() {
    const select = this.form.elements.name;
    for (const bar of this.store.bars.values()) {
      if (this.names.has(bar.name)) continue;
      this.names.add(bar.name);
      select.append(make("option", { value: bar.name }, bar.name));
    }
  }

  live() {
    const { search, status, name } = this.filter;
    const newest = new Map();
    for (const bar of this.store.shownBars()) {
      const known = newest.get(bar.workflow_id);
      if (!known || known.started_at <= bar.started_at) newest.set(bar.workflow_id, bar);
    }
    const wanted = search.toLowerCase();
    const found = [...newest.values()].filter(
      (bar) =>
        (!name || bar.name === name) &&
        (!status || STATUS_OF_OUTCOME[bar.outcome] === status) &&
        (!wanted || bar.workflow_id.toLowerCase().includes(wanted) || bar.label.toLowerCase().includes(wanted)),
    );
    found.sort((a, b) => b.started_at - a.started_at);
    this.total = found.length;
    this.page = Math.min(this.page, Math.max(0, Math.ceil(found.length / PAGE) - 1));
    this.more = found.length > (this.page + 1) * PAGE;
    return found.slice(this.page * PAGE, (this.page + 1) * PAGE).map((bar) => ({
      id: bar.workflow_id,
      what: bar.label,
      status: STATUS_OF_OUTCOME[bar.outcome],
      executor: bar.executor_id,
      attempts: bar.attempt,
      at: bar.started_at,
    }));
  }

  async load() {
    const { search, status, name } = this.filter;
    const query = new URLSearchParams({ limit: PAGE });
    if (search) query.set("prefix", search);
    if (status) query.set("status", status);
    if (name) query.set("name", name);
    if (this.store.application) query.set("application", this.store.application);
    const cursor = this.cursors[this.page];
    if (cursor) query.set("before", cursor);
    const asked = (this.asked = query.toString());
    try {
      const answer = await this.api.get(`/workflows?${query}`);
      if (asked !== this.asked) return; // a later request is in progress
      this.stored = answer.workflows.map((row) => ({
        id: row.workflow_id,
        what: row.name,
        status: row.status,
        executor: row.executor_id,
        attempts: row.attempts,
        at: epoch(row.started_at ?? row.created_at),
      }));
      this.cursors[this.page + 1] = answer.next_before ?? null;
      this.more = Boolean(answer.next_before);
      this.total = null;
      this.problem = "";
    } catch (error) {
      this.stored = [];
      this.more = false;
      this.problem = error.message;
    }
  }

  render(rows) {
    while (this.body.children.length > rows.length) this.body.lastChild.remove();
    while (this.body.children.length < rows.length) this.body.append(this.row());
    rows.forEach((row, index) => this.fill(this.body.children[index], row));
    const from = this.page * PAGE + 1;
    const place = this.total === null
      ? `${from} to ${this.page * PAGE + rows.length}, newest first`
      : `${from} to ${from + rows.length - 1} of ${this.total.toLocaleString("en")}, newest first`;
    const none = this.store.ready ? "No workflow like this. Start a scene, or look among all stored ones." : "";
    say($("#list-place"), this.problem || (rows.length ? place : none));
    $("#newer").disabled = this.page === 0;
    $("#older").disabled = !this.more;
  }

  row() {
    const link = make("a", { data: { inside: "" } });
    const cells = ["what", "status", "executor", "number", "number"].map((kind) => make("td", { class: kind }));
    const row = make("tr", {}, make("th", { scope: "row", class: "id" }, link), cells);
    row.parts = { link, cells, status: null };
    return row;
  }

  fill(element, row) {
    const { link, cells } = element.parts;
    const href = `/console/workflows/${segment(row.id)}`;
    if (link.getAttribute("href") !== href) {
      link.href = href;
      link.title = row.id;
    }
    say(link, shortId(row.id));
    say(cells[0], row.what);
    if (element.parts.status !== row.status) {
      element.parts.status = row.status;
      cells[1].replaceChildren(badge(STATUS[row.status] ?? { shape: "?", word: row.status }));
    }
    say(cells[2], holder(row.status, row.executor));
    cells[2].title = row.executor ?? "";
    say(cells[3], String(row.attempts ?? "–"));
    say(cells[4], row.at === null ? "–" : duration(this.store.now() - row.at));
  }
}

/** The timeline as a table, newest first. Filled only while it is open. */
export class Twin {
  constructor(store, view) {
    this.store = store;
    this.view = view;
    this.details = $("#twin");
    this.body = $("#twin-rows");
    this.details.addEventListener("toggle", () => this.show());
  }

  show() {
    if (!this.details.open) return;
    const since = this.view.since();
    const bars = this.store.shownBars().filter((bar) => (bar.ended_at ?? Infinity) >= since);
    bars.sort((a, b) => b.started_at - a.started_at);
    say($("#twin-count"), `${count(bars.length, "attempt")} in this window${bars.length > 100 ? ", the newest 100 shown" : ""}`);
    this.body.replaceChildren(...bars.slice(0, 100).map((bar) => this.row(bar)));
  }

  row(bar) {
    const next = this.store.bars.get(bar.next);
    const outcome = { running: "running", success: "succeeded", error: "failed", cancelled: "cancelled", lost: "lost with its executor", handed_over: "handed over", parked: "parked" }[bar.outcome] ?? bar.outcome;
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, `${bar.label} (${shortId(bar.workflow_id)})`),
      make("td", {}, shortExecutor(bar.executor_id)),
      make("td", { class: "number" }, String(bar.attempt)),
      make("td", { class: "number" }, `${duration(this.store.now() - bar.started_at)} ago`),
      make("td", { class: "number" }, duration((bar.ended_at ?? this.store.knownUntil()) - bar.started_at)),
      make("td", {}, next ? `${outcome}, goes on on ${shortExecutor(next.executor_id)}` : outcome),
    );
  }
}
