"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Pointing at, touching or focusing a mark tells its figure below the drawing.
  for (const figure of all("figure")) {
    const told = figure.querySelector(".told");
    const tell = (event) => {
      const mark = event.target.closest(".mark");
      if (mark) told.textContent = mark.getAttribute("aria-label");
    };
    for (const kind of ["pointerover", "focusin", "click"]) figure.addEventListener(kind, tell);
  }

  // The transports' buttons dim what is not theirs.
  for (const chip of all(".chip")) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      const off = new Set(all('.chip[aria-pressed="false"]').map((c) => c.dataset.transport));
      for (const mark of all("[data-transport]:not(.chip)")) {
        mark.classList.toggle("dimmed", off.has(mark.dataset.transport));
      }
    });
  }

  // A heading sorts by its column, and turns the order round when it is clicked again.
  const table = document.querySelector("#summary");
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.firstChild.textContent;
    const number = Number(text.replaceAll(",", ""));
    return text.trim() === "" || Number.isNaN(number) ? text : number;
  };
  all("thead th", table).forEach((heading, column) => {
    heading.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of all("thead th", table)) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const order = (a, b) => {
        const [one, two] = [value(a, column), value(b, column)];
        if (typeof one === "number" && typeof two === "number") return one - two;
        return String(one).localeCompare(String(two));
      };
      const sorted = [...body.rows].sort(order);
      body.append(...(down ? sorted.reverse() : sorted));
    });
  });

  document.querySelector("#theme").addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  });
})();
