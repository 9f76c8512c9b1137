// Numbers of bytes for people, as the server's messages have them.

const [MIB, GIB] = [2 ** 20, 2 ** 30];

export const bytes = (size) => (size >= GIB ? `${(size / GIB).toFixed(1)} GiB` : `${Math.round(size / MIB)} MiB`);
