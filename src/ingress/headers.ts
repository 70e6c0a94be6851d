/**
 * Which headers cross the proxy. Raw name/value pairs are kept as sent (order, case, repeats); only what is between two
 * hops or meant for the proxy is taken out. No `X-Forwarded-*` is added (behaviour.md §9.4).
 */

import { entriesOf, forApp } from './protocols.ts';

/** As Node has them: name, value, name, value. */
export type RawHeaders = readonly string[];

export const REQUEST_ID = 'x-amzn-requestid';
const PROXY_PREFIX = 'x-aws-proxy-';
const FORCE_H2 = 'x-aws-proxy-force-h2';
/** RFC 9110 §7.6.1; `trailer` is end-to-end. `te` goes too: HTTP/1.1 apps do not need it and it must not pass unlisted. */
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'transfer-encoding',
  'upgrade',
]);

/** Whether a request asks to reach the app as HTTP/2 without TLS (behaviour.md §9.4). */
export function forcesHttp2(raw: RawHeaders): boolean {
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? '';
    if (name.length !== FORCE_H2.length || name.toLowerCase() !== FORCE_H2) continue;
    return raw[i + 1]?.toLowerCase() === 'true';
  }
  return false;
}

/** The request's headers as the app may see them, with our request id. */
export function requestHeaders(raw: RawHeaders, requestId: string): string[] {
  const named = namedByConnection(raw);
  const kept: string[] = [];
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? '';
    const lower = name.toLowerCase();
    if (crossesNot(lower, named) || lower.startsWith(PROXY_PREFIX) || lower === REQUEST_ID) continue;
    let value = raw[i + 1] ?? '';
    if (lower === 'sec-websocket-protocol') {
      value = forApp(entriesOf([value]));
      if (value === '') continue;
    }
    kept.push(name, value);
  }
  kept.push(REQUEST_ID, requestId);
  return kept;
}

/** The app's response headers as the client may see them, with our request id. */
export function responseHeaders(raw: RawHeaders, requestId: string): string[] {
  const named = namedByConnection(raw);
  const kept: string[] = [];
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? '';
    const lower = name.toLowerCase();
    if (crossesNot(lower, named) || lower === REQUEST_ID) continue;
    kept.push(name, raw[i + 1] ?? '');
  }
  kept.push(REQUEST_ID, requestId);
  return kept;
}

/** Trailers as they may go on: never ones that frame the message or address the proxy. */
export function trailers(raw: RawHeaders): RawHeaders {
  if (raw.length === 0) return raw;
  return filter(
    raw,
    (name) => !crossesNot(name, NONE) && name !== 'content-length' && name !== 'host' && !name.startsWith(PROXY_PREFIX),
  );
}

export function* pairsOf(raw: RawHeaders): Generator<[name: string, value: string]> {
  for (let i = 0; i + 1 < raw.length; i += 2) yield [raw[i] ?? '', raw[i + 1] ?? ''];
}

const NONE: ReadonlySet<string> = new Set();

function crossesNot(name: string, named: ReadonlySet<string>): boolean {
  return HOP_BY_HOP.has(name) || (named.size > 0 && named.has(name));
}

/** Headers that `Connection` declares to be of this hop only. Framing and routing can't be named away. */
function namedByConnection(raw: RawHeaders): ReadonlySet<string> {
  let named: Set<string> | undefined;
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? '';
    if (name.length !== 10 || name.toLowerCase() !== 'connection') continue;
    for (const part of (raw[i + 1] ?? '').toLowerCase().split(',')) {
      const token = part.trim();
      if (token === 'host' || token === 'content-length' || token === '') continue;
      named ??= new Set();
      named.add(token);
    }
  }
  return named ?? NONE;
}

function filter(raw: RawHeaders, keep: (lowerName: string) => boolean): string[] {
  const kept: string[] = [];
  for (const [name, value] of pairsOf(raw)) if (keep(name.toLowerCase())) kept.push(name, value);
  return kept;
}
