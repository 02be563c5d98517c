// Runs before the page is painted: the chosen theme, or that of the system.
"use strict";
(() => {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => {
    try { return localStorage.getItem("adabldm-theme"); } catch { return null; }
  };
  const apply = () => {
    document.documentElement.dataset.theme = chosen() ?? (system.matches ? "dark" : "light");
  };
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.querySelector("#theme");
    const name = () => {
      const dark = document.documentElement.dataset.theme === "dark";
      button.textContent = dark ? "Light" : "Dark";
      button.setAttribute("aria-label", dark ? "Change to the light theme" : "Change to the dark theme");
    };
    name();
    system.addEventListener("change", name);
    button.addEventListener("click", () => {
      const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
      try { localStorage.setItem("adabldm-theme", next); } catch { /* a private window: it holds for this page */ }
      document.documentElement.dataset.theme = next;
      name();
    });
  });
})();
