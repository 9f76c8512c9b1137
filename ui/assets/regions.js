// Rectangles as text: four whole numbers a line.

export const regionsText = (rectangles) => rectangles.map(({ x, y, width, height }) => `${x}, ${y}, ${width}, ${height}`).join("\n");

/** The rectangles that a text names, null when a line of it is none. */
export function readRegions(text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  const found = lines.map((line) => /^(\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(\d+)$/.exec(line)?.slice(1).map(Number));
  if (found.some((four) => !four || !four[2] || !four[3])) return null;
  return found.map(([x, y, width, height]) => ({ x, y, width, height }));
}
