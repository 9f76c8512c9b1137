// Requests with seeds above 2**53, which JSON's numbers would round on their way through a script.

const PLACE = "@seed@";

/** The JSON text of a request with the seed that `digits` says. */
export function requestText(request, digits) {
  return JSON.stringify({ ...request, seed: PLACE }).replace(`"${PLACE}"`, /^\d+$/.test(digits) ? digits : "-1");
}

/** The seed of a picture as its infotext has it: with every digit. */
export function seedOf(picture) {
  const exact = /(?:^|, )Seed: (\d+)/.exec(picture.infotext.split("\n").at(-1));
  return exact ? exact[1] : String(picture.seed);
}
