// What makes the pages more comfortable. All of them work without it.
"use strict";

// A button beside each address copies it.
for (const field of document.querySelectorAll(".copy input")) {
  field.addEventListener("focus", () => field.select());
  if (!navigator.clipboard) continue;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(field.value);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    } catch {
      field.select();
    }
  });
  field.after(button);
}

// Menus close when something else is wanted.
const menus = document.querySelectorAll("details.menu");
document.addEventListener("click", (event) => {
  for (const menu of menus) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of menus) {
    if (!menu.open) continue;
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

// On a narrow screen the tab one is on may lie outside of it.
document.querySelector(".tabs [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

// A link to a file of a long difference opens it.
const unfold = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
};
addEventListener("hashchange", unfold);
unfold();

// The cluster page follows the cluster. Its parts come from this node, escaped.
const board = document.getElementById("board");
if (board) {
  const source = new EventSource(board.dataset.events);
  source.addEventListener("message", (event) => {
    const place = document.activeElement && board.contains(document.activeElement) && document.activeElement.getAttribute("href");
    board.innerHTML = event.data;
    if (place) board.querySelector(`a[href="${CSS.escape(place)}"]`)?.focus();
    board.dataset.changes = String(Number(board.dataset.changes || 0) + 1);
  });
  source.addEventListener("end", () => source.close());
  source.addEventListener("open", () => board.classList.remove("lost"));
  source.addEventListener("error", () => board.classList.add("lost"));
}
