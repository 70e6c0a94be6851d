/**
 * The server's side of a WebSocket handshake for the few that end here instead of at an app.
 *
 * The library is handed a request made of what was checked, never the client's own headers: no extension is negotiated and
 * its own refusals are never seen.
 */
import type { IncomingMessage } from 'node:http';
import { type WebSocket, WebSocketServer } from 'ws';
import { MAX_MESSAGE_BYTES } from '../../lib/index.ts';
import { pairsOf, type RawHeaders, REQUEST_ID } from '../headers.ts';
import type { Upgrade } from '../upgrade.ts';

/** The client's key. Undefined: what came is no handshake of RFC 6455. */
export function handshakeKey(headers: RawHeaders): string | undefined {
  const found: Record<'sec-websocket-key' | 'sec-websocket-version', string[]> = {
    'sec-websocket-key': [],
    'sec-websocket-version': [],
  };
  for (const [name, value] of pairsOf(headers)) {
    const lower = name.toLowerCase();
    if (lower === 'sec-websocket-key' || lower === 'sec-websocket-version') found[lower].push(value);
  }
  const [key, ...others] = found['sec-websocket-key'];
  if (key === undefined || others.length > 0 || !/^[+/\d\p{L}]{22}==$/iu.test(key)) return undefined;
  return found['sec-websocket-version'].join() === '13' ? key : undefined;
}

/** Answers 101 with `protocol` selected, or with none. Undefined: the client is gone. */
export function completeHandshake(upgrade: Upgrade, key: string, protocol: string | undefined): WebSocket | undefined {
  const request = {
    method: 'GET',
    url: '/',
    headers: {
      upgrade: 'websocket',
      connection: 'upgrade',
      'sec-websocket-key': key,
      'sec-websocket-version': '13',
      ...(protocol === undefined ? {} : { 'sec-websocket-protocol': protocol }),
    },
  } as IncomingMessage;
  const server = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    // Answers to pings are bounded by whoever keeps the socket alive.
    autoPong: false,
    maxPayload: MAX_MESSAGE_BYTES,
  });
  server.once('headers', (lines: string[]) => void lines.push(`${REQUEST_ID}: ${upgrade.requestId}`));
  let socket: WebSocket | undefined;
  server.handleUpgrade(request, upgrade.socket, upgrade.head, (opened) => {
    socket = opened;
  });
  // It was paused while the microVM woke, and stays so for whoever only listens.
  upgrade.socket.resume();
  return socket;
}
