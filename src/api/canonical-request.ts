/**
 * What Signature Version 4 signs of a request, rebuilt from the request as it came: one text, each rule of which the
 * published test vectors cover (`sigv4-vectors.test.ts`).
 */
import type { IncomingMessage } from 'node:http';

export interface CanonicalOptions {
  readonly form: 'header' | 'query';
  readonly signedHeaders: readonly string[];
  /** The sent path is normalised and encoded once more. */
  readonly encodesPathTwice: boolean;
  /** Hexadecimal SHA-256 of the body, or S3's literal. */
  readonly bodyHash: string;
}

/** @throws URIError when the query is not properly percent-encoded */
export function canonicalRequest(request: IncomingMessage, options: CanonicalOptions): string {
  const { path, query } = splitTarget(request.url ?? '/');
  let headers = '';
  for (const name of options.signedHeaders) {
    // Values of a repeated header stand in the order they came.
    const values = request.headersDistinct[name] ?? [];
    headers += `${name}:${values.map((value) => value.trim().replace(/ +/g, ' ')).join(',')}\n`;
  }
  return [
    request.method,
    options.encodesPathTwice ? encodePath(normalPath(path)) : path,
    query === '' ? '' : canonicalQuery(query, options.form),
    headers,
    options.signedHeaders.join(';'),
    options.bodyHash,
  ].join('\n');
}

/** Splits a request target into its path and its query, both as sent. */
export function splitTarget(target: string): { path: string; query: string } {
  const at = target.indexOf('?');
  return at < 0 ? { path: target, query: '' } : { path: target.slice(0, at), query: target.slice(at + 1) };
}

/** The pairs of a query, decoded. @throws URIError on bad percent encoding */
export function queryPairs(query: string): [name: string, value: string][] {
  return query
    .split('&')
    .filter((pair) => pair !== '')
    .map((pair) => {
      const at = pair.indexOf('=');
      const [name, value] = at < 0 ? [pair, ''] : [pair.slice(0, at), pair.slice(at + 1)];
      return [decodeURIComponent(name.replaceAll('+', ' ')), decodeURIComponent(value.replaceAll('+', ' '))];
    });
}

/** Percent encoding as signatures want it: everything but letters, digits and `-._~`. */
export function encodeStrict(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

function canonicalQuery(query: string, form: 'header' | 'query'): string {
  return queryPairs(query)
    .filter(([name]) => form === 'header' || name !== 'X-Amz-Signature')
    .map(([name, value]) => [encodeStrict(name), encodeStrict(value)] as const)
    .sort(([a, av], [b, bv]) => (a < b ? -1 : a > b ? 1 : av < bv ? -1 : av > bv ? 1 : 0))
    .map(([name, value]) => `${name}=${value}`)
    .join('&');
}

/** The parser lets nothing but ASCII into a path, so a character is a byte. */
function encodePath(path: string): string {
  return path.replace(/[^A-Za-z0-9\-._~/]/g, (char) => {
    return `%${char.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`;
  });
}

/** Dot segments and doubled slashes resolved, as signers do for every service but S3. */
function normalPath(path: string): string {
  const segments: string[] = [];
  for (const segment of path.split('/')) {
    if (segment === '..') segments.pop();
    else if (segment !== '' && segment !== '.') segments.push(segment);
  }
  const trailing = path.endsWith('/') && segments.length > 0 ? '/' : '';
  return `/${segments.join('/')}${trailing}`;
}
