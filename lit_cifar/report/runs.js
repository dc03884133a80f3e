"use strict";
// Each heading becomes a button that sorts the rows by its column: first as one wants to see them, then the other way.
for (const heading of document.querySelectorAll("th[data-sort]")) {
  const button = document.createElement("button");
  button.textContent = heading.textContent;
  button.addEventListener("click", () => {
    const isNumber = heading.dataset.sort === "number";
    const before = heading.getAttribute("aria-sort");
    const descending = before === null ? isNumber : before === "ascending";
    for (const other of document.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const value = (row) => row.cells[heading.cellIndex].dataset.value;
    const rows = [...document.querySelector("tbody").rows];
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // what isn't known comes last, either way
      const order = isNumber ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return descending ? -order : order;
    });
    document.querySelector("tbody").append(...rows);
  });
  heading.replaceChildren(button);
}
