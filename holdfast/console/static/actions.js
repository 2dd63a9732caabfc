// Control operations: what each does, when it is allowed, and what to watch for afterwards.

import { segment } from "./address.js";
import { confirm, notice } from "./dialogs.js";
import { idempotencyKey } from "./api.js";
import { count, shortExecutor } from "./words.js";

const page = (workflowId) => `/console/workflows/${segment(workflowId)}`;

/** Says how far a control operation is that takes longer than a request. */
const progress = (operation) => `It continues: ${count(operation.completed, "workflow")} done of ${operation.total ?? "many"}. `
  + `\`holdfast operations ${operation.operation_id}\` shows its progress.`;

export class Actions {
  constructor(api, store) {
    this.api = api;
    this.store = store;
  }

  /** Sends a control operation and shows its result. Resolves with the answer, or null. */
  async request(path, body, words, { key = false, method = "POST" } = {}) {
    try {
      const answer = await this.api.write(method, path, body, key ? { "Idempotency-Key": idempotencyKey() } : {});
      if (answer === null) {
        notice("Nothing was done: this needs the admin token.", { bad: true });
        return null;
      }
      const { text, link } = answer.operation_id ? { text: progress(answer) } : words(answer);
      notice(text, { link });
      return answer;
    } catch (error) {
      notice(error.message, { bad: true });
      return null;
    }
  }

  // --- executors ---------------------------------------------------------------------------

  /** Returns why a control operation on an executor is not allowed; null if it is. */
  whyNot(operation, executor) {
    if (executor.state === "dead" || executor.state === "drained") return `It is ${executor.state}: nothing can be requested from it any more.`;
    if (operation === "drain" && executor.state === "draining") return "It drains already.";
    if (operation === "crash" && !this.store.head.chaos) return "Only where the stack runs with HOLDFAST_CHAOS=true.";
    return null;
  }

  async drain(executor) {
    const name = shortExecutor(executor.executor_id);
    const last = executor.state === "live" && this.store.live(executor.role) === 1;
    const yes = await confirm({
      title: `Drain ${name}?`,
      text: `It finishes the steps that run, hands the rest over to its peers and ends. Its restart policy brings a new one.${last ? ` It is the last live ${executor.role}: its work waits until another one starts.` : ""}`,
      yes: "Drain it",
    });
    if (!yes) return null;
    return this.request(`/executors/${segment(executor.executor_id)}/drain`, null, () => ({
      text: `${name} drains. Watch its lane: it ends with an open ring, and dashed lines lead to where its work goes on.`,
    }));
  }

  async crash(executor) {
    const name = shortExecutor(executor.executor_id);
    const yes = await confirm({
      title: `Crash ${name}?`,
      text: `It kills itself at once, with ${count(executor.in_flight, "workflow")} running. Peers take them over; steps that ran begin anew.`,
      yes: "Crash it",
      danger: true,
    });
    if (!yes) return null;
    return this.request(`/executors/${segment(executor.executor_id)}/crash`, null, () => ({
      text: `The crash of ${name} is requested. Watch for the cross in its lane, and for the lines to a peer within a second.`,
    }));
  }

  // --- workflows ---------------------------------------------------------------------------

  async cancel(workflow) {
    const yes = await confirm({
      title: "Cancel this workflow?",
      text: "It and its children end as cancelled. A running Fibonacci step ends within 1.5 s, other steps finish first. It can be resumed later.",
      yes: "Cancel the workflow",
      danger: true,
    });
    if (!yes) return null;
    return this.request(`/workflows/${segment(workflow.workflow_id)}/cancel`, null, () => ({
      text: "Cancelled, with its children. Its bars end with an outline.",
    }));
  }

  resume(workflow) {
    return this.request(`/workflows/${segment(workflow.workflow_id)}/resume`, null, () => ({
      text: "It waits in its queue again and goes on after its recorded steps. Watch for a new bar.",
    }));
  }

  reopen(workflow) {
    return this.request(`/workflows/${segment(workflow.workflow_id)}/reopen`, null, () => ({
      text: "It waits in its queue again and goes on at the step that failed. Watch for a new bar.",
    }));
  }

  fork(workflow, startStep) {
    const path = `/workflows/${segment(workflow.workflow_id)}/fork`;
    return this.request(path, { start_step: startStep }, (answer) => ({
      text: `A copy runs from step ${startStep} on: `,
      link: { href: page(answer.workflow_id), text: answer.workflow_id },
    }), { key: true });
  }

  /** `below`: how many workflows it started, and they in turn, as far as the page knows. */
  async delete(workflow, { children, below }) {
    const also = children ? `, and so are the ${count(below, "workflow")} below it; all must have ended` : below ? "; what it started stays" : "";
    const yes = await confirm({
      title: children ? "Delete this workflow and all below it?" : "Delete this workflow?",
      text: `Its input, result, steps, events, messages and streams are deleted with it${also}. This cannot be undone.`,
      yes: "Delete",
      danger: true,
    });
    if (!yes) return null;
    const path = `/workflows/${segment(workflow.workflow_id)}${children ? "?children=true" : ""}`;
    return this.request(path, null, (answer) => ({ text: `${count(answer.deleted, "workflow")} deleted.` }), { method: "DELETE" });
  }

  message(workflow, topic, text) {
    let message = text;
    try {
      message = JSON.parse(text);
    } catch {
      // It is text.
    }
    const path = `/workflows/${segment(workflow.workflow_id)}/messages`;
    return this.request(path, topic ? { message, topic } : { message }, () => ({
      text: `The message is stored. The workflow receives it once, as soon as it asks for ${topic ? `topic '${topic}'` : "a message without a topic"}.`,
    }), { key: true });
  }

  async adopt(workflow) {
    const yes = await confirm({
      title: "Adopt this workflow?",
      text: `It was started by version ${workflow.application_version}, which no live executor runs. Adopted, it goes on with the code of this release: do so only when that code takes the same steps.`,
      yes: "Adopt it",
    });
    if (!yes) return null;
    return this.request(`/workflows/${segment(workflow.workflow_id)}/adopt`, null, (answer) => ({
      text: `Adopted by version ${answer.to_version}. It waits in its queue now.`,
    }));
  }

  /** Adopts all stranded work of a version. */
  async adoptAll(row) {
    const yes = await confirm({
      title: `Adopt ${count(row.workflows, "workflow")}?`,
      text: `They were started by version ${row.application_version}, which no live executor runs. Adopted, they go on with the code of this release: do so only when that code takes the same steps.`,
      yes: "Adopt them",
    });
    if (!yes) return null;
    const body = { application: row.application, from_version: row.application_version };
    return this.request("/stranded/adopt", body, (answer) => ({
      text: `${count(answer.adopted, "workflow")} adopted by version ${answer.to_version}. Watch for new bars.`,
    }));
  }

  // --- scenes ------------------------------------------------------------------------------

  start(path, body, watch) {
    return this.request(path, body, (answer) => ({
      text: `Started. ${watch} `,
      link: { href: page(answer.workflow_id), text: answer.workflow_id },
    }), { key: true });
  }
}
