/** Listing a bucket: order, prefix, delimiter and paging as S3 defines them, over an unordered set of keys. */
import type { ObjectInfo } from './object-files.ts';

/** Where the last page ended. A common prefix counts with everything below it. */
export interface ListPosition {
  readonly name: string;
  readonly isPrefix: boolean;
}

export interface ListRequest {
  readonly prefix?: string | undefined;
  readonly delimiter?: string | undefined;
  readonly after?: ListPosition | undefined;
  /** 0 or more; objects and common prefixes count alike. */
  readonly limit: number;
}

export interface ListResult {
  readonly objects: readonly ObjectInfo[];
  readonly commonPrefixes: readonly string[];
  /** Set when there is more. */
  readonly next: ListPosition | undefined;
}

export async function listKeys(keys: AsyncIterable<ObjectInfo>, request: ListRequest): Promise<ListResult> {
  const { prefix = '', delimiter = '', after, limit } = request;
  const wanted: { sortKey: Buffer; info: ObjectInfo }[] = [];
  for await (const info of keys) {
    if (info.key.startsWith(prefix)) wanted.push({ sortKey: Buffer.from(info.key), info });
  }
  // S3 orders by the bytes of UTF-8, which differs from JavaScript's order above the basic plane.
  wanted.sort((a, b) => Buffer.compare(a.sortKey, b.sortKey));

  const startAfter = after === undefined ? undefined : Buffer.from(after.name);
  const objects: ObjectInfo[] = [];
  const commonPrefixes: string[] = [];
  let last: ListPosition | undefined;
  for (const { sortKey, info } of wanted) {
    if (startAfter !== undefined && Buffer.compare(sortKey, startAfter) <= 0) continue;
    if (after?.isPrefix === true && info.key.startsWith(after.name)) continue;
    const end = delimiter === '' ? -1 : info.key.indexOf(delimiter, prefix.length);
    const common = end < 0 ? undefined : info.key.slice(0, end + delimiter.length);
    if (common !== undefined && common === commonPrefixes.at(-1)) continue;
    if (objects.length + commonPrefixes.length >= limit) return { objects, commonPrefixes, next: last };
    if (common === undefined) objects.push(info);
    else commonPrefixes.push(common);
    last = { name: common ?? info.key, isPrefix: common !== undefined };
  }
  return { objects, commonPrefixes, next: undefined };
}
