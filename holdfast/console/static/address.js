// How an id is written in an address, as `holdfast/path_segment.py` has it.

const DOTS = /^~*\.{1,2}$/;

/** Returns any text as one segment of a path. Browsers remove a segment of one or two dots, so that gets a `~`. */
export function segment(text) {
  return encodeURIComponent(DOTS.test(text) ? `~${text}` : text);
}

/** Returns the text of a segment; null if it is not percent-encoded UTF-8. */
export function textOf(encoded) {
  try {
    const text = decodeURIComponent(encoded);
    return text.startsWith("~") && DOTS.test(text) ? text.slice(1) : text;
  } catch {
    return null;
  }
}
