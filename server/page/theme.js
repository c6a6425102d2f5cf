// The colour scheme: the system's, or the one that was chosen here. Loaded before anything is painted, so that a dark
// page never flashes white; therefore a classic script, not a module.
"use strict";

(() => {
  const KEY = "lucid.theme";
  const CHOICES = ["system", "light", "dark"];
  const SIGNS = { system: "◐", light: "○", dark: "●" };

  function stored() {
    try {
      const value = localStorage.getItem(KEY);
      return CHOICES.includes(value) ? value : "system";
    } catch {
      return "system"; // storage is blocked
    }
  }

  let theme = stored();

  function apply() {
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) {
      button.textContent = SIGNS[theme];
      button.title = `Colours: ${theme}`;
      button.setAttribute("aria-label", `Colours: ${theme}. Change`);
    }
  }

  apply();
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", () => {
      theme = CHOICES[(CHOICES.indexOf(theme) + 1) % CHOICES.length];
      try {
        localStorage.setItem(KEY, theme);
      } catch {
        // it holds until the page is closed
      }
      apply();
    });
  });
})();
