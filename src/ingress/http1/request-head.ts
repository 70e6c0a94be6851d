/**
 * Request heads of HTTP/1.1, from checked text to what the rest of the ingress works with. What is refused here never costs
 * more than its own parsing.
 */
import type { RequestHead } from '../exchange.ts';
import {
  checkCharacters,
  framingOf,
  type Hop,
  isToken,
  lineEnd,
  lists,
  MalformedMessage,
  parseHeaderLines,
  readHop,
  TARGET,
} from './head.ts';

export interface Http1RequestHead extends RequestHead {
  readonly protocol: 'http/1.0' | 'http/1.1';
  /** The client wants the connection for another request. */
  readonly wantsKeepAlive: boolean;
  /** A WebSocket upgrade. */
  readonly isUpgrade: boolean;
}

const MAX_METHOD = 32;
const VERSION = /^HTTP\/1\.([01])$/;
/** What a `Host` must not have, because it ends an authority or begins something else. */
const NOT_A_HOST = /[\s/?#@,\\]/;
const ABSOLUTE = /^https?:\/\/([^/?#]*)(.*)$/i;

/** @param text a head without its empty line. @throws MalformedMessage */
export function parseRequestHead(text: string, maxHeaders: number): Http1RequestHead {
  checkCharacters(text);
  const end = lineEnd(text, 0);
  const line = text.slice(0, end);
  const [method = '', target = '', version = '', ...more] = line.split(' ');
  const minor = VERSION.exec(version)?.[1];
  if (
    minor === undefined ||
    more.length > 0 ||
    method.length > MAX_METHOD ||
    !isToken(method) ||
    !TARGET.test(target)
  ) {
    throw new MalformedMessage('a request line that is none');
  }
  const headers = parseHeaderLines(text, end + 2, maxHeaders);
  const hop = readHop(headers);
  const isOld = minor === '0';
  if (hop.host === undefined || NOT_A_HOST.test(hop.host)) throw new MalformedMessage('no Host, or one that is none');
  const framing = framingOf(hop, Number(minor));
  const expectsContinue = !isOld && expectation(hop);
  return {
    protocol: isOld ? 'http/1.0' : 'http/1.1',
    method,
    path: pathOf(method, target, hop),
    headers,
    hasBody: framing === 'chunked' || (framing ?? 0) > 0,
    bodyLength: framing === 'chunked' ? undefined : (framing ?? 0),
    expectsContinue,
    wantsKeepAlive: isOld ? lists(hop.connection, 'keep-alive') : !lists(hop.connection, 'close'),
    isUpgrade: !isOld && hop.upgrade?.toLowerCase() === 'websocket' && lists(hop.connection, 'upgrade'),
  };
}

/** The target as the app gets it. One that names another host than `Host` does would be two answers to one question. */
function pathOf(method: string, target: string, { host }: Hop): string {
  if (target.startsWith('/') || (target === '*' && method === 'OPTIONS')) return target;
  const absolute = ABSOLUTE.exec(target);
  const [, authority = '', path = ''] = absolute ?? [];
  if (absolute === null || authority === '' || authority.toLowerCase() !== host?.toLowerCase()) {
    throw new MalformedMessage('a request target that is none');
  }
  if (path === '' && method === 'OPTIONS') return '*';
  return path.startsWith('/') ? path : `/${path}`;
}

function expectation({ expect }: Hop): boolean {
  if (expect === undefined) return false;
  if (expect.toLowerCase() !== '100-continue') throw new MalformedMessage('an unknown expectation', 417);
  return true;
}
