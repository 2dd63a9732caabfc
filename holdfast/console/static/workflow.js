// A workflow's page: its family, its attempts and their executors, and the allowed actions.

import { segment } from "./address.js";
import { $, badge, make, say } from "./dom.js";
import { Messages, waitingFor } from "./messages.js";
import { Tree } from "./tree.js";
import { Waterfall } from "./waterfall.js";
import { duration, epoch, OUTCOME, shortExecutor, slotWait, STATUS } from "./words.js";

const ENDED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"];
const OPERATIONS = ["cancel", "resume", "reopen", "fork", "adopt", "delete"];
const STEPS = 500;
const POLL_SECONDS = 1.5;

export class WorkflowPage {
  constructor(store, api, actions) {
    this.store = store;
    this.api = api;
    this.actions = actions;
    this.id = null;
    this.busy = false;
    this.tree = new Tree($("#tree"));
    this.waterfall = new Waterfall($("#steps"));
    this.messages = new Messages(api, actions);
    for (const operation of OPERATIONS) {
      $(`#do-${operation}`).addEventListener("click", async () => {
        if (!this.workflow) return;
        const asked = { fork: Number($("#fork-step").value) || 1, delete: { children: $("#delete-children").checked, below: this.below } };
        const answer = await actions[operation](this.workflow, asked[operation]);
        if (answer?.deleted && answer.workflow_id === this.id) this.workflow = null;
        this.poll(true);
      });
    }
  }

  open(id) {
    this.id = id;
    this.workflow = null;
    this.polledAt = -Infinity;
    $("#workflow").dataset.state = "loading";
    say($("#workflow-id"), id);
    say($("#workflow-problem"), "");
    say($("#workflow-about"), "Looking …");
    say($("#workflow-waiting"), "");
    return this.poll(true);
  }

  close() {
    this.id = null;
  }

  /** Called often. Queries only while the workflow may still change, and never twice concurrently. */
  async poll(now = false) {
    if (this.id === null || this.busy || document.hidden) return;
    const ended = this.workflow && ENDED.includes(this.workflow.status);
    const seconds = performance.now() / 1000;
    if (!now && (seconds - this.polledAt < POLL_SECONDS || (ended && !this.changed()))) return;
    this.busy = true;
    this.polledAt = seconds;
    const id = this.id;
    const path = `/workflows/${segment(id)}`;
    try {
      const [workflow, steps, tree, said] = await Promise.all([
        this.api.get(path),
        this.api.get(`${path}/steps?limit=${STEPS}`),
        this.api.get(`/console${path}/tree`),
        this.messages.read(path),
      ]);
      if (id !== this.id) return;
      say($("#workflow-problem"), "");
      this.show(workflow, steps, tree);
      this.messages.show(workflow, said);
    } catch (error) {
      if (id !== this.id) return;
      const gone = error.status === 404;
      say($("#workflow-problem"), gone ? "There is no workflow of this id. It may have been deleted, or the address is wrong." : `${error.message} What you see is from before.`);
      if (gone) for (const words of ["about", "waiting"]) say($(`#workflow-${words}`), "");
      $("#workflow").dataset.state = this.workflow ? "known" : gone ? "gone" : "loading";
    } finally {
      this.busy = false;
    }
  }

  /** The stream shows a newer state, for example after a resume. */
  changed() {
    const newest = this.store.attempts(this.id).at(-1);
    return Boolean(newest && newest.ended_at === null);
  }

  show(workflow, { steps, next_offset: more }, tree) {
    this.workflow = workflow;
    const node = tree.nodes.find((other) => other.workflow_id === workflow.workflow_id);
    $("#workflow").dataset.state = "known";
    say($("#workflow-title"), node?.label ?? workflow.name);
    const status = workflow.waiting ? STATUS.ENQUEUED : STATUS[workflow.status];
    $("#workflow-status").replaceChildren(badge(status ?? { shape: "?", word: workflow.status }));
    say($("#workflow-about"), about(workflow, tree, more === null ? steps : null));
    say($("#workflow-waiting"), waitingFor(workflow, tree.now) ?? "");
    this.tree.show(tree, workflow.workflow_id);
    this.waterfall.show(steps, tree, workflow, more !== null);
    this.attempts(tree);
    payload("input", workflow.input, workflow.input_shortened && "4 kB");
    const nothing = ENDED.includes(workflow.status) ? "none" : "not yet";
    const cut = workflow.error ? workflow.error_shortened && "1,000 characters" : workflow.output_shortened && "4 kB";
    payload("output", workflow.error ?? workflow.output, cut, nothing);
    say($("#output-title"), workflow.error ? "Error" : "Output");
    for (const operation of OPERATIONS) {
      const why = tree.actions[operation];
      $(`#do-${operation}`).disabled = why !== null;
      say($(`#why-${operation}`), why ?? ALLOWED[operation]);
    }
    this.below = descendants(tree.nodes, workflow.workflow_id);
    $("#delete-children").disabled = tree.actions.delete !== null;
    $("#fork-step").disabled = tree.actions.fork !== null;
    $("#fork-step").max = String(steps.length + 1);
  }

  attempts({ attempts, executors, moves }) {
    $("#attempts").replaceChildren(
      ...attempts.map((bar) => {
        const move = moves.find((other) => other.from === bar.executor_id && Math.abs(other.lost_at - (bar.ended_at ?? 0)) < 1);
        return make(
          "li",
          {},
          make("span", { class: "number" }, `${bar.attempt}`),
          make("span", { title: bar.executor_id }, `${shortExecutor(bar.executor_id)} (${executors[bar.executor_id] ?? "forgotten"})`),
          badge(OUTCOME[bar.outcome] ?? { shape: "?", word: bar.outcome }),
          make("span", { class: "quiet" }, `${duration((bar.ended_at ?? this.store.now()) - bar.started_at)}${move ? `, ${moved(move)}` : ""}`),
        );
      }),
    );
  }
}

const ALLOWED = {
  cancel: "Ends it and its children.",
  resume: "Puts it back into its queue; recorded steps are not done again.",
  reopen: "Goes on at the failed step. A parent needs its child to have succeeded.",
  fork: "Runs a copy from this step on; the steps before keep their results.",
  adopt: "Lets this release go on with work of a version that no live executor runs.",
  delete: "Deletes it with its input, result and steps. This cannot be undone.",
};

/** Returns the number of workflows below one. Stored rows may form a circle of parents. */
function descendants(nodes, id) {
  const found = new Set([id]);
  for (const parent of found) {
    for (const node of nodes) if (node.parent_workflow_id === parent) found.add(node.workflow_id);
  }
  return found.size - 1;
}

function moved(move) {
  const taken = move.kind === "takeover" ? `, taken over in ${duration(move.takeover_seconds)}` : "";
  return `${move.reason}${taken}${slotWait(move.claimed_at && move.claimed_at - move.released_at)}`;
}

/** Returns the step after the last recorded one, and since when it runs; null unless the workflow runs a step. */
function currentStep(workflow, tree, steps) {
  if (workflow.status !== "PENDING" || workflow.waiting || steps === null) return null;
  const last = steps.at(-1);
  const since = Math.max(epoch(workflow.started_at) ?? epoch(workflow.created_at), epoch(last?.completed_at) ?? 0);
  return `step ${(last?.step_id ?? 0) + 1} for ${duration(tree.now - since)}`;
}

function about(workflow, tree, steps) {
  const parts = [workflow.name, workflow.application_version && `version ${workflow.application_version}`];
  if (workflow.queue_name) parts.push(`queue ${workflow.queue_name}`);
  const started = epoch(workflow.started_at);
  const ended = epoch(workflow.completed_at);
  if (started === null) parts.push(`waits for ${duration(tree.now - epoch(workflow.created_at))}`);
  else if (ended === null) parts.push(`runs for ${duration(tree.now - started)} on ${shortExecutor(workflow.executor_id)}`);
  else parts.push(`took ${duration(ended - started)}, on ${shortExecutor(workflow.executor_id)} at last`);
  parts.push(currentStep(workflow, tree, steps));
  if (workflow.forked_from) parts.push(`a copy of ${workflow.forked_from}`);
  return parts.filter(Boolean).join(" · ");
}

function payload(name, value, cut, nothing = "none") {
  const text = value === null || value === undefined ? nothing : typeof value === "string" ? value : JSON.stringify(value, null, 2);
  say($(`#${name}`), cut ? `${text} …\n(the first ${cut})` : text);
}
