// What the page does beyond being read: sort tables, switch between contests, say where an image
// came from. Without it everything is shown, in the order the page was made with.
"use strict";
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

  // --- sorting: the heading of a column becomes a button -------------------------------------
  const announce = document.querySelector(".sorted");

  const compare = (a, b, descending) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // no value: last, either way
    const difference = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    return descending ? -difference : difference;
  };

  const sort = (head, column) => {
    const table = head.closest("table");
    const numeric = head.classList.contains("num");
    const now = head.getAttribute("aria-sort");
    // Numbers start with the largest, ranks and names with the first.
    const first = numeric && column !== 1 ? "descending" : "ascending";
    const other = first === "descending" ? "ascending" : "descending";
    const order = now === first ? other : first;
    all("thead th", table).forEach((cell) => cell.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", order);
    const value = (row) => row.cells[column].dataset.sort;
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => compare(value(a), value(b), order === "descending"));
    body.append(...rows);
    announce.textContent = `Sorted by ${head.textContent.trim()}, ${order}.`;
  };

  all("th[aria-sort]").forEach((head) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(head, head.cellIndex));
  });

  // --- switching: one contest at a time -------------------------------------------------------
  const form = document.querySelector(".switch");

  const choose = () => {
    const chosen = [...new FormData(form).entries()];
    all("[data-budget]").forEach((part) => {
      part.hidden = chosen.some(([key, value]) => part.dataset[key] !== value);
    });
    all(".task").forEach((task) => {
      const shown = all(".contest", task).some((contest) => !contest.hidden);
      task.querySelector(".no-match").hidden = shown;
    });
  };

  if (form) {
    form.hidden = false;
    form.addEventListener("change", choose);
    choose();
  }

  // --- images: a tap says what pointing says --------------------------------------------------
  document.addEventListener("click", (event) => {
    const thumb = event.target.closest(".thumbs i");
    if (!thumb) return;
    all(".thumbs i.chosen").forEach((other) => other.classList.remove("chosen"));
    thumb.classList.add("chosen");
    thumb.closest(".gallery").querySelector(".told").textContent = thumb.title;
  });
})();
