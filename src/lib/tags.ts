/** Tags of a resource: keys to values, checked for their number only; what a key may look like the wire tables say. */
import { DomainError } from './errors.ts';

export type Tags = Readonly<Record<string, string>>;

/** AWS's common limit; whether it holds here is undocumented. GUESS: tag-limit */
const MAX_TAGS = 50;

/** The tags after adding `more`, which replaces equal keys. @throws DomainError `INVALID` when there are too many */
export function addTags(tags: Tags, more: Tags): Tags {
  const all = { ...tags, ...more };
  if (Object.keys(all).length > MAX_TAGS) {
    throw new DomainError('INVALID', `A resource can have at most ${MAX_TAGS} tags.`);
  }
  return all;
}

/** Keys that are not there do not matter. */
export function removeTags(tags: Tags, keys: readonly string[]): Tags {
  return Object.fromEntries(Object.entries(tags).filter(([key]) => !keys.includes(key)));
}
