// The theme that was chosen here before, ahead of the first paint. No module: those run too late.
"use strict";
try {
  const chosen = localStorage.getItem("lockgate.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be forbidden; then the system's theme it is.
}
