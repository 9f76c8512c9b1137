// Where the results panel stands in each tab of pictures. There is one panel, which moves to the tab that is opened.

/** Carry the panel to `place` whenever that comes into view. */
export function offerPlace(place) {
  new ResizeObserver(() => {
    const panel = document.querySelector(".em-results");
    if (panel && place.offsetParent !== null && panel.parentElement !== place) place.append(panel);
  }).observe(place);
}

export function mount({ element }) {
  offerPlace(element.querySelector(".em-results-place"));
}
