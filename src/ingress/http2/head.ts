/**
 * Heads between HTTP/2 and the rest: pseudo-headers to a `RequestHead`, an answer's headers to what HTTP/2 may carry.
 *
 * nghttp2 has refused what RFC 9113 §8 forbids by itself; what is checked here is what would be taken for something else
 * by an HTTP/1.1 app or by our own admission.
 */
import type { RequestHead } from '../exchange.ts';
import { pairsOf, type RawHeaders } from '../headers.ts';

const METHOD = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** No blanks and no control characters: the target must not end early in an HTTP/1.1 request line. */
const TARGET = /^(?:\/[\x21-\x7e\x80-\xff]*|\*)$/;
const AUTHORITY = /^[A-Za-z0-9.:_[\]-]+$/;
/** Of one connection only, and forbidden in HTTP/2 (RFC 9113 §8.2.2). */
const CONNECTION_SPECIFIC = new Set([
  'connection',
  'http2-settings',
  'keep-alive',
  'proxy-connection',
  'te',
  'transfer-encoding',
  'upgrade',
]);

export interface HeadLimits {
  readonly headerBytes: number;
  readonly headerCount: number;
}

/** At most five in a request. */
const PSEUDO_HEADERS = 5;

/**
 * What nghttp2 resets streams for, by its own count (RFC 9113 §6.5.2: 32 bytes for each field). A little above ours, so that
 * most learn from an answer what was wrong.
 */
export function nativeLimits({ headerBytes, headerCount }: HeadLimits): { listSize: number; listPairs: number } {
  return { listSize: headerBytes + 64 * headerCount, listPairs: 2 * headerCount + PSEUDO_HEADERS };
}

/** Asked of heads in both directions: nghttp2 goes by a limit only once the other side acknowledged it. */
export function isTooLarge(raw: RawHeaders, { headerBytes, headerCount }: HeadLimits): boolean {
  if (raw.length > 2 * (headerCount + PSEUDO_HEADERS)) return true;
  let bytes = 0;
  for (const text of raw) bytes += text.length;
  return bytes > headerBytes;
}

/** Undefined: malformed. `isWhole`: nothing follows the head. */
export function requestHeadOf(raw: RawHeaders, isWhole: boolean): RequestHead | undefined {
  const pseudo = new Map<string, string>();
  const headers: string[] = [];
  const cookies: string[] = [];
  let host: string | undefined;
  let bodyLength: number | undefined = isWhole ? 0 : undefined;
  let expectsContinue = false;
  for (const [name, value] of pairsOf(raw)) {
    if (name.startsWith(':')) pseudo.set(name, value);
    else if (name === 'cookie') cookies.push(value);
    else if (name === 'host') {
      if (host !== undefined && host !== value) return undefined;
      host = value;
    } else {
      if (name === 'content-length' && !isWhole) bodyLength = Number(value);
      if (name === 'expect') expectsContinue = value.toLowerCase() === '100-continue';
      headers.push(name, value);
    }
  }
  const method = pseudo.get(':method') ?? '';
  const path = pseudo.get(':path') ?? '';
  const authority = pseudo.get(':authority') ?? host ?? '';
  if (!METHOD.test(method) || method === 'CONNECT' || !TARGET.test(path) || !AUTHORITY.test(authority))
    return undefined;
  if (path === '*' && method !== 'OPTIONS') return undefined;
  if (host !== undefined && host.toLowerCase() !== authority.toLowerCase()) return undefined;
  // RFC 9113 §8.2.3: crumbs are one header again wherever HTTP/2 ends.
  if (cookies.length > 0) headers.push('cookie', cookies.join('; '));
  return {
    protocol: 'h2',
    method,
    path,
    headers: ['host', authority, ...headers],
    hasBody: !isWhole,
    bodyLength,
    expectsContinue: expectsContinue && !isWhole,
  };
}

/**
 * Headers as HTTP/2 may carry them: names in lower case, nothing of the connection.
 * @throws Error for a name or value that would not arrive as what it is
 */
export function lowered(raw: RawHeaders): string[] {
  const kept: string[] = [];
  for (const [name, value] of pairsOf(raw)) {
    const lower = name.toLowerCase();
    if (CONNECTION_SPECIFIC.has(lower)) continue;
    if (lower === '' || lower.startsWith(':')) throw new Error('a header has no proper name');
    // Node separates headers with NUL on their way to nghttp2, which checks nothing that is sent.
    if (/[\0\r\n]/.test(value)) throw new Error(`the header ${lower} contains a line end or NUL`);
    kept.push(lower, value);
  }
  return kept;
}

/** As Node wants headers where it takes no raw ones. @throws Error like `lowered` */
export function grouped(raw: RawHeaders): Record<string, string[]> {
  const groups: Record<string, string[]> = Object.create(null);
  for (const [name, value] of pairsOf(lowered(raw))) {
    groups[name] ??= [];
    groups[name].push(value);
  }
  return groups;
}

/** Without the pseudo-headers. */
export function plainHeaders(raw: RawHeaders): string[] {
  const kept: string[] = [];
  for (const [name, value] of pairsOf(raw)) if (!name.startsWith(':')) kept.push(name, value);
  return kept;
}
