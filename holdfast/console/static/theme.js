// Sets the light or dark theme, as chosen or as the system has it. Not a module, so that it runs before the first paint.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("holdfast-theme");
  } catch {
    // Without storage the page follows the system.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
