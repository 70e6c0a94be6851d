/**
 * Who may reach which port: the token, then the port, then the token's scope. Pure but for the token's decryption.
 *
 * Invariant: nothing of a request reaches a microVM before it was admitted, and nobody without a valid token of this
 * very microVM learns more than that.
 */
import type { IncomingMessage } from 'node:http';
import type { Microvms, TokenClaims } from '../microvms/index.ts';

export type Admission =
  | { readonly kind: 'admitted'; readonly port: number; readonly protocols: Protocols | undefined }
  | { readonly kind: 'refused'; readonly status: 400 | 403 | 502; readonly text: string };

/** What a WebSocket client offered, the proxy's own entries taken out. */
export interface Protocols {
  /** The value the app gets to see; empty: no header at all. */
  readonly forApp: string;
  /** Whether the client offered the marker, which the proxy selects when the app selects nothing. */
  readonly marked: boolean;
}

const DEFAULT_PORT = 8080;
export const MARKER = 'lambda-microvms';
const AUTHENTICATION = `${MARKER}.authentication.`;
const PORT = `${MARKER}.port.`;
const COMPACT_JWE = /^[\w-]+\.[\w-]*\.[\w-]+\.[\w-]+\.[\w-]+$/;
/** Ours are below 1 KiB. */
const MAX_TOKEN_LENGTH = 8192;

export async function admit(
  request: IncomingMessage,
  microvmId: string,
  microvms: Pick<Microvms, 'verifyToken'>,
  options: { upgrade: boolean },
): Promise<Admission> {
  const offered = options.upgrade ? offeredProtocols(request) : undefined;
  const token = header(request, 'x-aws-proxy-auth') ?? offered?.token;
  if (token === undefined || token.length > MAX_TOKEN_LENGTH || !COMPACT_JWE.test(token)) {
    return refused(403, 'Request missing authentication');
  }
  // GUESS: proxy-check-order
  const check = await microvms.verifyToken(token);
  if (check.kind !== 'valid' || check.claims.microvmId !== microvmId)
    return refused(403, 'Token authentication failed');
  const port = portOf(header(request, 'x-aws-proxy-port') ?? offered?.port);
  if (port === undefined) return refused(400, 'Invalid port');
  // behaviour.md §9.5: a shell token used for the app is a 502 without a body.
  if (check.claims.kind !== 'app') return refused(502, '');
  if (!inScope(port, check.claims.ports)) return refused(403, 'Access to port denied');
  return { kind: 'admitted', port, protocols: offered };
}

function refused(status: 400 | 403 | 502, text: string): Admission {
  return { kind: 'refused', status, text };
}

function header(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name];
  return typeof value === 'string' ? value : undefined;
}

/** Undefined: malformed. */
function portOf(text: string | undefined): number | undefined {
  if (text === undefined) return DEFAULT_PORT;
  const port = /^[1-9]\d{0,4}$/.test(text) ? Number(text) : 0;
  return port >= 1 && port <= 65_535 ? port : undefined;
}

function inScope(port: number, ports: TokenClaims['ports']): boolean {
  return ports === 'all' || ports.some(([first, last]) => port >= first && port <= last);
}

/** Splits what browsers offer because they can't set headers; the order of the entries means nothing (behaviour.md §9.6). */
function offeredProtocols(
  request: IncomingMessage,
): (Protocols & { token: string | undefined; port: string | undefined }) | undefined {
  const value = header(request, 'sec-websocket-protocol');
  if (value === undefined) return undefined;
  const entries = value.split(',').map((entry) => entry.trim());
  const after = (prefix: string) => entries.find((entry) => entry.startsWith(prefix))?.slice(prefix.length);
  const isOurs = (entry: string) => entry === MARKER || entry.startsWith(AUTHENTICATION) || entry.startsWith(PORT);
  return {
    forApp: entries.filter((entry) => entry !== '' && !isOurs(entry)).join(', '),
    marked: entries.includes(MARKER),
    token: entries.includes(MARKER) ? after(AUTHENTICATION) : undefined,
    port: after(PORT),
  };
}
