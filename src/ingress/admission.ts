/**
 * Who may reach which port: the token, then the port, then the token's scope. Pure but for the token's decryption.
 *
 * Invariant: nothing of a request reaches a microVM before it was admitted, and nobody without a valid token of this
 * very microVM learns more than that.
 */
import type { Microvms, TokenClaims } from '../microvms/index.ts';
import type { RawHeaders } from './headers.ts';
import { AUTHENTICATION, entriesOf, forApp, MARKER, PORT } from './protocols.ts';

export type Admission =
  | {
      readonly kind: 'admitted';
      readonly port: number;
      readonly protocols: Protocols | undefined;
      /** An upgrade with a shell token: it is for no port of the app's. */
      readonly isShell: boolean;
    }
  | { readonly kind: 'refused'; readonly status: 400 | 403 | 502; readonly text: string };

/** What a WebSocket client offered, the proxy's own entries taken out. */
export interface Protocols {
  /** The value the app gets to see; empty: no header at all. */
  readonly forApp: string;
  /** Whether the client offered the marker, which the proxy selects when the app selects nothing. */
  readonly marked: boolean;
}

const DEFAULT_PORT = 8080;
const COMPACT_JWE = /^[\w-]+\.[\w-]*\.[\w-]+\.[\w-]+\.[\w-]+$/;
/** Ours are below 1 KiB. */
const MAX_TOKEN_LENGTH = 8192;

/** What is asked of a request before it may pass. */
export interface Asked {
  readonly method?: string | undefined;
  readonly rawHeaders: RawHeaders;
}

/** `upgrade`: the connection is to carry a WebSocket from here on. */
export async function admit(
  request: Asked,
  microvmId: string,
  microvms: Pick<Microvms, 'verifyToken'>,
  options: { upgrade: boolean },
): Promise<Admission> {
  const said = proxyHeaders(request.rawHeaders);
  const offered = options.upgrade ? offeredProtocols(said.protocols) : undefined;
  // A header wins over an entry of the same meaning. GUESS: duplicate-proxy-entries
  const token = onlyOne(said.tokens.length > 0 ? said.tokens : (offered?.tokens ?? []));
  if (token === undefined || token.length > MAX_TOKEN_LENGTH || !COMPACT_JWE.test(token)) {
    return refused(403, 'Request missing authentication');
  }
  // GUESS: proxy-check-order
  const check = await microvms.verifyToken(token);
  if (check.kind !== 'valid' || check.claims.microvmId !== microvmId)
    return refused(403, 'Token authentication failed');
  const port = portOf(said.ports.length > 0 ? said.ports : (offered?.ports ?? []));
  if (port === undefined) return refused(400, 'Invalid port');
  // behaviour.md §9.5: a shell token used for the app is a 502 without a body.
  const isShell = check.claims.kind === 'shell';
  if (isShell && !options.upgrade) return refused(502, '');
  if (!isShell && !inScope(port, check.claims.ports)) return refused(403, 'Access to port denied');
  if (options.upgrade ? said.hasBody || request.method !== 'GET' : said.wantsWebSocket) return refused(400, '');
  return { kind: 'admitted', port, protocols: offered, isShell };
}

function refused(status: 400 | 403 | 502, text: string): Admission {
  return { kind: 'refused', status, text };
}

interface Said {
  readonly tokens: string[];
  readonly ports: string[];
  /** Values of `Sec-WebSocket-Protocol`. */
  readonly protocols: string[];
  /**
   * An upgrade to WebSocket that came where none can begin (no `Connection: upgrade`, another method, a body), is a 400
   * without a body: passed on without its upgrade it would mean something else. GUESS: upgrade-through-request
   */
  wantsWebSocket: boolean;
  hasBody: boolean;
}

function proxyHeaders(raw: RawHeaders): Said {
  const said: Said = { tokens: [], ports: [], protocols: [], wantsWebSocket: false, hasBody: false };
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? '';
    const value = raw[i + 1] ?? '';
    switch (name.length) {
      case 7:
        if (name.toLowerCase() === 'upgrade') said.wantsWebSocket ||= /(^|[ \t,])websocket($|[ \t,/])/i.test(value);
        break;
      case 14:
        if (name.toLowerCase() === 'content-length') said.hasBody ||= value !== '0';
        break;
      case 16:
        if (name.toLowerCase() === 'x-aws-proxy-auth') said.tokens.push(value);
        else if (name.toLowerCase() === 'x-aws-proxy-port') said.ports.push(value);
        break;
      case 17:
        if (name.toLowerCase() === 'transfer-encoding') said.hasBody = true;
        break;
      case 22:
        if (name.toLowerCase() === 'sec-websocket-protocol') said.protocols.push(value);
        break;
    }
  }
  return said;
}

/** Undefined: none, or several that differ, of which nobody can say which is meant. */
function onlyOne(values: readonly string[]): string | undefined {
  const [first] = values;
  return values.every((value) => value === first) ? first : undefined;
}

/** Undefined: malformed. */
function portOf(values: readonly string[]): number | undefined {
  if (values.length === 0) return DEFAULT_PORT;
  const text = onlyOne(values) ?? '';
  const port = /^[1-9]\d{0,4}$/.test(text) ? Number(text) : 0;
  return port >= 1 && port <= 65_535 ? port : undefined;
}

function inScope(port: number, ports: TokenClaims['ports']): boolean {
  return ports === 'all' || ports.some(([first, last]) => port >= first && port <= last);
}

interface Offered extends Protocols {
  readonly tokens: readonly string[];
  readonly ports: readonly string[];
}

/** Splits what browsers offer because they can't set headers; the order of the entries means nothing (behaviour.md §9.6). */
function offeredProtocols(values: readonly string[]): Offered | undefined {
  if (values.length === 0) return undefined;
  const entries = entriesOf(values);
  const after = (prefix: string) =>
    entries.filter((entry) => entry.startsWith(prefix)).map((entry) => entry.slice(prefix.length));
  const marked = entries.includes(MARKER);
  return {
    forApp: forApp(entries),
    marked,
    tokens: marked ? after(AUTHENTICATION) : [],
    ports: after(PORT),
  };
}
