(function () {
  "use strict";
  var root = document.documentElement;
  var rows = Array.prototype.slice.call(document.querySelectorAll(".t"));
  var apdus = Array.prototype.slice.call(document.querySelectorAll(".apdus tbody tr"));
  var query = document.getElementById("query");
  var kind = document.getElementById("kind");
  var count = document.getElementById("count");

  function textOf(element) {
    if (!element.searchText) element.searchText = element.textContent.toLowerCase().replace(/\s+/g, " ");
    return element.searchText;
  }
  function has(element, words) {
    var text = textOf(element);
    return words.every(function (word) { return text.indexOf(word) >= 0; });
  }
  function ofKind(row) {
    switch (kind.value) {
      case "all": return true;
      case "problem": return row.dataset.problem === "1";
      case "apdu": return row.dataset.apdu !== "0";
      default: return row.dataset.kind === kind.value;
    }
  }
  function filter() {
    var words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    var shown = 0;
    rows.forEach(function (row) {
      var show = ofKind(row) && has(row, words);
      row.classList.toggle("hidden", !show);
      if (show) shown++;
    });
    apdus.forEach(function (row) { row.classList.toggle("hidden", !has(row, words)); });
    count.textContent = shown === rows.length ? rows.length + " transfers" : shown + " of " + rows.length + " transfers";
    root.dataset.shown = String(shown);
  }
  function all(open) {
    rows.forEach(function (row) { if (!row.classList.contains("hidden")) row.open = open; });
  }
  // The address can have a search, as in #q=verify&kind=in, or a transfer, as in #t12.
  function follow() {
    var hash = location.hash.slice(1);
    if (/^t\d+$/.test(hash)) {
      var row = document.getElementById(hash);
      if (!row) return;
      row.classList.remove("hidden");
      row.open = true;
      row.scrollIntoView();
      return;
    }
    var parameters = new URLSearchParams(hash);
    if (parameters.has("q")) query.value = parameters.get("q");
    if (parameters.has("kind")) kind.value = parameters.get("kind");
    if (!kind.value) kind.value = "all";
    if (parameters.has("theme")) theme(parameters.get("theme"));
    if (parameters.has("open")) all(true);
    filter();
  }
  function theme(name) { root.dataset.theme = name === "dark" ? "dark" : "light"; }

  theme(window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.getElementById("theme").addEventListener("click", function () { theme(root.dataset.theme === "dark" ? "light" : "dark"); });
  document.getElementById("open").addEventListener("click", function () { all(true); });
  document.getElementById("close").addEventListener("click", function () { all(false); });
  query.addEventListener("input", filter);
  kind.addEventListener("change", filter);
  window.addEventListener("hashchange", follow);
  filter();
  follow();
  root.dataset.transfers = String(rows.length);
  root.dataset.apdus = String(apdus.length);
  root.dataset.marks = String(document.querySelectorAll("#timeline a").length);
  root.dataset.points = String(document.querySelectorAll("#latency a").length);
  root.dataset.ready = "true";
})();
