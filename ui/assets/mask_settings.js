// How this browser paints: size, hardness, colours. Kept for the next visit.

const KEY = "emulsion.canvas.settings";
const USUAL = { size: 48, hardness: 1, strength: 1, colour: "#e8542f", opacity: 1, isPressure: true, tint: "#ff5a36", cover: 0.55, reach: 8 };
export const MAX_SIZE = 1024; // pixels of the picture

/** `settings.set({size})` changes and keeps; `settings.watch(watcher)` is told. */
export function makeSettings() {
  const watchers = new Set();
  const settings = {
    ...USUAL,
    ...kept(),
    /** Whether nothing was ever set in this browser. */
    isUsual: localStorage.getItem(KEY) === null,
    watch: (watcher) => watchers.add(watcher),
    set(changes) {
      Object.assign(settings, changes, { isUsual: false });
      settings.size = Math.min(MAX_SIZE, Math.max(1, Math.round(settings.size)));
      settings.hardness = Math.min(1, Math.max(0, Math.round(settings.hardness * 100) / 100));
      localStorage.setItem(KEY, JSON.stringify(Object.fromEntries(Object.keys(USUAL).map((name) => [name, settings[name]]))));
      watchers.forEach((watcher) => watcher());
    },
    /** Larger or smaller by a part of what it is. */
    resize: (direction) => settings.set({ size: settings.size + direction * Math.max(1, Math.round(settings.size * 0.12)) }),
    harden: (direction) => settings.set({ hardness: settings.hardness + direction * 0.1 }),
  };
  return settings;
}

function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY)) ?? {};
    return Object.fromEntries(Object.entries(found).filter(([name, value]) => typeof value === typeof USUAL[name]));
  } catch {
    return {};
  }
}

/** "#rrggbb" as three numbers. */
export const rgbOf = (text) => [1, 3, 5].map((at) => Number.parseInt(text.slice(at, at + 2), 16));
