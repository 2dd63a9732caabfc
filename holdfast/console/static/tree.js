// Shows parents and children of a workflow as nested lists.

import { segment } from "./address.js";
import { badge, make } from "./dom.js";
import { count, holder, STATUS } from "./words.js";

const CHILDREN_SHOWN = 60;

export class Tree {
  constructor(element) {
    this.element = element;
    this.shown = "";
  }

  show(tree, ownId) {
    const text = ownId + tree.nodes.map((node) => `${node.workflow_id} ${node.status} ${node.executor_id}`).join();
    if (text === this.shown) return; // unchanged: keep focus and scroll position
    this.shown = text;
    const children = new Map();
    for (const node of tree.nodes) {
      const parent = node.workflow_id === tree.root_id ? null : node.parent_workflow_id;
      if (!children.has(parent)) children.set(parent, []);
      children.get(parent).push(node);
    }
    const focused = this.element.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    const notes = tree.truncated ? [make("p", { class: "quiet" }, "There are more than are shown here.")] : [];
    this.element.replaceChildren(this.level(children, null, ownId), ...notes);
    if (focused) [...this.element.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
  }

  level(children, parent, ownId) {
    const all = children.get(parent) ?? [];
    const own = all.findIndex((node) => node.workflow_id === ownId);
    // The page's own workflow is never cut off.
    const first = Math.max(0, Math.min(own - CHILDREN_SHOWN / 2, all.length - CHILDREN_SHOWN));
    const shown = all.slice(first, first + CHILDREN_SHOWN);
    const items = shown.map((node) => {
      const here = node.workflow_id === ownId;
      const link = make(
        "a",
        { href: `/console/workflows/${segment(node.workflow_id)}`, data: { inside: "" }, "aria-current": here ? "page" : null, title: node.workflow_id },
        node.label,
      );
      return make(
        "li",
        {},
        make(
          "div",
          { class: "node" },
          link,
          badge(STATUS[node.status] ?? { shape: "?", word: node.status }),
          make("span", { class: "quiet" }, holder(node.status, node.executor_id)),
        ),
        children.has(node.workflow_id) ? this.level(children, node.workflow_id, ownId) : null,
      );
    });
    const rest = all.length - shown.length;
    return make("ul", {}, items, rest ? make("li", { class: "quiet" }, `and ${count(rest, "more", "more")}`) : null);
  }
}
