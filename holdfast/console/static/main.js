// Connects the parts: one store, one stream, and two views with two kinds of address.

import { segment, textOf } from "./address.js";
import { Actions } from "./actions.js";
import { Api } from "./api.js";
import { Charts } from "./charts.js";
import { askToken, notice, prepareDialogs } from "./dialogs.js";
import { prepareApplications } from "./applications.js";
import { $, say, throttled } from "./dom.js";
import { ExecutorDialog } from "./executor.js";
import { Lists, Twin } from "./lists.js";
import { Live } from "./live.js";
import { Phone } from "./phone.js";
import { prepareStart } from "./start.js";
import { prepareStranded } from "./stranded.js";
import { Store } from "./store.js";
import { Summary } from "./summary.js";
import { Timeline } from "./timeline.js";
import { View, WINDOWS } from "./view.js";
import { WorkflowPage } from "./workflow.js";

const store = new Store();
const view = new View(store);
const api = new Api(askToken);
const live = new Live(store, api);
const actions = new Actions(api, store);
const summary = new Summary(store, live);
const lists = new Lists(store, api);
const twin = new Twin(store, view);
const executorDialog = new ExecutorDialog(store, actions);
const workflowPage = new WorkflowPage(store, api, actions);
const phone = new Phone(store, view, (id) => executorDialog.open(id));
new Timeline(store, view, api, (id) => go(`/console/workflows/${segment(id)}`), (id) => executorDialog.open(id));
const charts = new Charts(store, view);

// --- addresses -------------------------------------------------------------------------------

function route() {
  const match = /^\/console\/workflows\/([^/]+)$/.exec(location.pathname);
  $("#overview").hidden = Boolean(match);
  $("#workflow").hidden = !match;
  for (const id of ["#scroll-window", "#still"]) $(id).hidden = Boolean(match);
  if (match) workflowPage.open(textOf(match[1]) ?? match[1]);
  else workflowPage.close();
  everything();
}

function go(path) {
  history.pushState(null, "", path);
  route();
  scrollTo(0, 0);
  $(location.pathname.startsWith("/console/workflows/") ? "#workflow-title" : "#timeline").focus({ preventScroll: true });
}

addEventListener("popstate", route);
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-inside]");
  if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(link.getAttribute("href"));
});

const showApplications = prepareApplications(store, () => {
  lists.restart();
  twin.show();
  everything();
});

// --- updates ---------------------------------------------------------------------------------

const everything = throttled(() => {
  showApplications();
  $(".pulse-head").hidden = !store.pulsing;
  summary.show();
  executorDialog.refresh();
  if ($("#workflow").hidden) {
    lists.show();
    charts.draw();
    phone.show();
  } else {
    workflowPage.poll();
  }
  $("#loading").hidden = store.ready || live.state === "locked";
}, 250);
const words = throttled(() => twin.show(), 1000);

store.addEventListener("news", () => {
  everything();
  words();
});
live.addEventListener("state", everything);
view.addEventListener("changed", everything);
// Ages grow even if no message arrives.
setInterval(everything, 500);

// --- the toolbar -----------------------------------------------------------------------------

for (const input of document.querySelectorAll("input[name=window]")) {
  input.addEventListener("change", () => view.choose(WINDOWS[Number(input.value)]));
}
view.addEventListener("changed", () => {
  $(`input[name=window][value="${WINDOWS.indexOf(view.window)}"]`).checked = true;
});

const still = $("#still");
still.addEventListener("click", () => {
  const frozen = view.frozenAt === null;
  view.freeze(frozen);
  still.setAttribute("aria-pressed", String(frozen));
  say(still, frozen ? "Go on" : "Hold still");
});

$("#theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const shown = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  const next = shown === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("holdfast-theme", next);
  } catch {
    // The browser stores nothing: the choice lasts as long as the page.
  }
  dispatchEvent(new Event("themechange"));
});

const admin = $("#admin");
function showAdmin() {
  say(admin, api.token ? "Admin: unlocked" : "Admin: locked");
  admin.title = api.token ? "Forget the token" : "Give the admin token";
}
api.addEventListener("token", showAdmin);
admin.addEventListener("click", async () => {
  if (api.token) {
    api.token = null;
    notice("The admin token is forgotten.");
    return;
  }
  const token = await askToken(false);
  if (token) api.token = token;
});

prepareDialogs();
prepareStart(actions);
prepareStranded(api, actions);
showAdmin();
route();
live.run();
