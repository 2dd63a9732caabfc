// The Start dialog: scenes with a few settings, and hints on what to watch for.

import { segment } from "./address.js";
import { $ } from "./dom.js";

const number = (form, name) => Number(form.elements[name].value);

const SCENES = {
  batch: {
    path: () => "/fibonacci/batches",
    body: (form) => ({
      count: number(form, "count"),
      method: form.elements.method.value,
      sequential: form.elements.sequential.checked,
    }),
    watch: "The queue fills, and the workers' lanes with it; kill one to see the others go on.",
  },
  scope: {
    path: (form) => `/scope/${form.elements.kind.value}`,
    body: (form) => ({ steps: number(form, "steps"), step_seconds: number(form, "step_seconds") }),
    watch: "One long bar in the API's lane; crash that API and the steps go on where they were.",
  },
  users: {
    path: () => "/users/pages",
    body: (form) => ({ pages: number(form, "pages"), page_size: number(form, "page_size") }),
    watch: "A workflow with a child for every page, in the API's lane.",
  },
  nested: {
    path: () => "/nested",
    body: (form) => ({ queued: form.elements.queued.checked }),
    watch: "Root, child and grandchild; its page shows them as a tree.",
  },
  bucket: {
    path: (form) => `/buckets/${segment(form.elements.bucket.value)}/listing`,
    body: (form) => ({ page_size: number(form, "page_size") }),
    watch: "Pages, at most ten at once and fifty starts in ten seconds; its page has the report.",
  },
};

export function prepareStart(actions) {
  const dialog = $("#start-dialog");
  $("#start").addEventListener("click", () => dialog.showModal());
  for (const form of dialog.querySelectorAll("form[data-scene]")) {
    const scene = SCENES[form.dataset.scene];
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      dialog.close("");
      const button = form.querySelector("button");
      button.disabled = true;
      await actions.start(scene.path(form), scene.body(form), scene.watch);
      button.disabled = false;
    });
  }
}
