"use strict";
// Before anything is painted: light or dark, as chosen last, or as the system has it.
const chosenTheme = () => { try { return localStorage.getItem("ssa-analyze-theme"); } catch { return null; } };
const showTheme = () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const chosen = chosenTheme();
  document.documentElement.dataset.theme = chosen === "dark" || (chosen !== "light" && dark) ? "dark" : "light";
  document.documentElement.dataset.chosen = chosen ?? "auto";
};
showTheme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
