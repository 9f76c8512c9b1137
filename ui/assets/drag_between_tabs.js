// A picture that is dragged over a tab for a moment opens it, so that it can be dropped there.

const PAUSE_MS = 450;
let over = null;
let timer = 0;

document.addEventListener("dragover", ({ target }) => {
  const tab = target.closest?.("#em-tabs [role=tab]") ?? null;
  if (tab === over) return;
  over = tab;
  clearTimeout(timer);
  if (tab) timer = setTimeout(() => tab.click(), PAUSE_MS);
});

for (const end of ["drop", "dragend"]) {
  document.addEventListener(end, () => {
    over = null;
    clearTimeout(timer);
  });
}
