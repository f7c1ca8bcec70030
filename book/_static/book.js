// Three repairs that need a browser: names the theme gives twice, boxes that scroll, and search from disk.

document.addEventListener("DOMContentLoaded", () => {
  // An aria-label that says something else than the words on the button confuses who speaks to the page.
  document.querySelectorAll(".search-button-field, .theme-switch-button").forEach((button) => button.removeAttribute("aria-label"));
  const sidebar = document.querySelector(".sidebar-primary-items__start");
  if (sidebar) { sidebar.setAttribute("role", "navigation"); sidebar.setAttribute("aria-label", "Book"); }
  reachable();
  window.addEventListener("resize", reachable);
  document.addEventListener("toggle", reachable, true);
  window.addEventListener("load", () => window.MathJax?.startup?.promise?.then(reachable));
});

// What scrolls sideways can be reached and scrolled with the keyboard; what does not, is no stop on the way.
function reachable() {
  document.querySelectorAll(".bd-article mjx-container:not([display])").forEach((formula) => {
    formula.classList.remove("wide");
    formula.classList.toggle("wide", formula.getBoundingClientRect().width > formula.closest("p, li, td, dd, figcaption, div").clientWidth);
  });
  document.querySelectorAll("pre, div.math mjx-container, mjx-container.wide, .pst-scrollable-table-container").forEach((box) => {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
}

// A page opened from disk may not read other files, so results quote from pagetext.js, which only the search page loads.
if (location.protocol === "file:") {
  window.fetch = (address) => {
    const page = String(address).split(/[?#]/)[0].replace(/^(\.\/)+/, "");
    return Promise.resolve(new Response(typeof PAGE_TEXT === "undefined" ? "" : PAGE_TEXT[page] || ""));
  };
}
