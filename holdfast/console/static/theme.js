// Before the first paint, and not a module: light or dark as chosen, else as the system has it.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("holdfast-theme");
  } catch {
    // A browser that keeps nothing still follows the system.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
