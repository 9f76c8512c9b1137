// The page's tabs, by the names that ui/ gives them.

const isVisible = (element) => element.offsetParent !== null;
const named = (name) => [...document.querySelectorAll(`#em-tabs [role=tab][data-tab-id="${name}"]`)];

export const tabsShown = () => [...document.querySelectorAll("#em-tabs [role=tablist] [role=tab]")].filter(isVisible);

export const hasTab = (name) => named(name).length > 0;

/** Open a tab, in a narrow window by way of the menu of those that have no place. */
export async function turnTo(name) {
  const tab = named(name).find(isVisible);
  if (tab) return tab.click();
  const label = named(name)[0]?.textContent.trim();
  document.querySelector("#em-tabs .overflow-menu > button")?.click();
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  [...document.querySelectorAll("#em-tabs .overflow-dropdown button")].find((entry) => entry.textContent.trim() === label)?.click();
}
