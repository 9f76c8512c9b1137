// Rounding as the server does it.

/** Round as Python does: halves go to the even neighbour. */
export function halfToEven(value) {
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2) : Math.round(value);
}
