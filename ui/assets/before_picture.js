// What a result was made larger from, to be compared with it.

/** Its address, null where there is none or nobody can say which of several it is. */
export function beforeOf({ job, url, before_hires }) {
  if (job.kind !== "upscale") return before_hires ?? null;
  const { pictures } = job.request;
  if (job.images.length !== pictures.length) return null; // some were left out, or are not made yet
  return `api/v1/pictures/${pictures[job.images.findIndex((image) => image.url === url)]}`;
}
