/**
 * JSON that vouches for itself: its last member, `sha256`, is the digest of the whole text with that member's digits as
 * zeros. One wrong byte anywhere, white space included, is found. Against damage, not against forgery.
 */
import { createHash } from 'node:crypto';

const DIGITS = 64;
const NO_DIGITS = '0'.repeat(DIGITS);
const END = '"\n}\n';

/** @param value an object with at least one member, none of them `sha256` */
export function encodeSelfChecked(value: object): string {
  const text = `${JSON.stringify({ ...value, sha256: NO_DIGITS }, null, 2)}\n`;
  return place(text, digestOf(text));
}

/** Undefined when a byte is not as it was written. */
export function decodeSelfChecked(text: string): unknown {
  const at = text.length - END.length - DIGITS;
  if (at < 0 || !text.endsWith(END)) return undefined;
  if (digestOf(place(text, NO_DIGITS)) !== text.slice(at, at + DIGITS)) return undefined;
  return JSON.parse(text);
}

function place(text: string, digits: string): string {
  const at = text.length - END.length - DIGITS;
  return text.slice(0, at) + digits + text.slice(at + DIGITS);
}

function digestOf(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
