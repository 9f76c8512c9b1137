// PNG files with exactly the bytes of a layer: a browser's own encoder knows no grey and rounds what is transparent.

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const COLOUR_TYPES = { 1: 0, 3: 2, 4: 6 }; // PNG 1.2, 4.1.1: grey, RGB, RGB with alpha
const SUB = 1; // PNG 1.2, 6.3: each byte is the difference to the pixel before

/** {width, height, channels, data} with 8 bits a channel as a PNG file. */
export async function encodePng(layer) {
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, layer.width);
  header.setUint32(4, layer.height);
  header.setUint8(8, 8);
  header.setUint8(9, COLOUR_TYPES[layer.channels]);
  const packed = await deflated(lines(layer));
  const parts = [new Uint8Array(SIGNATURE), chunk("IHDR", new Uint8Array(header.buffer)), chunk("IDAT", packed), chunk("IEND", new Uint8Array())];
  return new Blob(parts, { type: "image/png" });
}

/** Rows with their filter in front. Masks are flat already; of colours the differences are smaller. */
function lines({ width, height, channels, data }) {
  const row = width * channels;
  const found = new Uint8Array((row + 1) * height);
  for (let y = 0; y < height; y++) {
    const [from, to] = [y * row, y * (row + 1) + 1];
    if (channels === 1) {
      found.set(data.subarray(from, from + row), to);
      continue;
    }
    found[to - 1] = SUB;
    found.set(data.subarray(from, from + channels), to);
    for (let x = channels; x < row; x++) found[to + x] = data[from + x] - data[from + x - channels];
  }
  return found;
}

async function deflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function chunk(name, body) {
  const made = new Uint8Array(body.length + 12);
  const view = new DataView(made.buffer);
  view.setUint32(0, body.length);
  for (let at = 0; at < 4; at++) made[4 + at] = name.charCodeAt(at);
  made.set(body, 8);
  view.setUint32(body.length + 8, checksum(made.subarray(4, body.length + 8)));
  return made;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function checksum(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}
