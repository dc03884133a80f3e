"use strict";
// Each heading becomes a button that sorts the rows by its column: first as one wants to see them, then the other way.
for (const heading of document.querySelectorAll("th[data-sort]")) {
  const button = document.createElement("button");
  button.textContent = heading.textContent;
  button.addEventListener("click", () => {
    const isNumber = heading.dataset.sort === "number";
    const before = heading.getAttribute("aria-sort");
    const descending = before === null ? isNumber : before === "ascending";
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const value = (row) => row.cells[heading.cellIndex].dataset.value;
    const body = heading.closest("table").tBodies[0];
    const rows = [...body.rows];
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // what isn't known comes last, either way
      const order = isNumber ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return descending ? -order : order;
    });
    body.append(...rows);
  });
  heading.replaceChildren(button);
}
