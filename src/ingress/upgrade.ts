/**
 * WebSocket upgrades: admitted, woken and forwarded like a request; once the app agreed, bytes pass untouched both ways.
 *
 * Invariant: raw bytes flow only after the app's own 101. An app that answers otherwise gets an ordinary, closed exchange,
 * so nobody can slip further requests past the token check over a connection that looks upgraded.
 */
import { type ClientRequest, request as httpRequest, type IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { messageOf } from '../lib/index.ts';
import { MARKER, type Protocols } from './admission.ts';
import { BAD_GATEWAY, type Refusal, refuse } from './answers.ts';
import { MAX_HEADER_BYTES, type Surroundings, wake } from './forward.ts';
import { pairsOf, requestHeaders, responseHeaders } from './headers.ts';
import { isMachineGone } from './upstream.ts';

export interface Upgrade {
  readonly request: IncomingMessage;
  readonly socket: Socket;
  /** What the client sent behind its upgrade request. */
  readonly head: Buffer;
  readonly microvmId: string;
  readonly port: number;
  readonly protocols: Protocols | undefined;
  readonly requestId: string;
}

const ATTEMPTS = 3;

/** Never throws. The socket belongs to this function. */
export async function forwardUpgrade(upgrade: Upgrade, around: Surroundings): Promise<void> {
  const { socket, microvmId, requestId } = upgrade;
  const gone = new AbortController();
  socket.once('close', () => gone.abort());
  around.microvms.activity(microvmId);
  try {
    for (let attempt = 1; ; attempt++) {
      const machine = await wake(around, microvmId, gone.signal);
      const agent = around.upstreams.agentFor(machine);
      const outgoing = httpRequest({
        agent,
        port: upgrade.port,
        method: upgrade.request.method,
        path: upgrade.request.url,
        headers: outgoingHeaders(upgrade),
        setHost: false,
        maxHeaderSize: MAX_HEADER_BYTES,
      });
      const error = await exchange(outgoing, upgrade, around, gone.signal);
      if (error === undefined) return;
      if (attempt === ATTEMPTS || !(isMachineGone(error) || outgoing.reusedSocket)) throw error;
      agent.dropIdle(upgrade.port);
    }
  } catch (error) {
    if (gone.signal.aborted) return;
    around.log.debug({ microvmId, requestId, error: messageOf(error) }, 'endpoint answers an upgrade with 502');
    refuseUpgrade(upgrade.request, socket, BAD_GATEWAY, requestId, around);
  }
}

/** Answers an upgrade request as if it were an ordinary one, and closes. */
export function refuseUpgrade(
  request: IncomingMessage,
  socket: Socket,
  refusal: Refusal,
  requestId: string,
  around: Pick<Surroundings, 'clock'>,
): void {
  refuse(plainResponse(request, socket), refusal, requestId, around.clock);
}

function plainResponse(request: IncomingMessage, socket: Socket): ServerResponse {
  const response = new ServerResponse(request);
  response.shouldKeepAlive = false;
  response.assignSocket(socket);
  response.once('finish', () => {
    response.detachSocket(socket);
    socket.end();
  });
  return response;
}

/** Undefined: handled to its end. An error: nothing reached the client yet. */
function exchange(
  outgoing: ClientRequest,
  upgrade: Upgrade,
  around: Surroundings,
  gone: AbortSignal,
): Promise<Error | undefined> {
  const { promise, resolve } = Promise.withResolvers<Error | undefined>();
  const { socket, requestId } = upgrade;
  const onGone = () => outgoing.destroy();
  gone.addEventListener('abort', onGone, { once: true });
  outgoing.once('upgrade', (incoming, tunnel, head) => {
    gone.removeEventListener('abort', onGone);
    socket.write(switchingHead(incoming, upgrade));
    splice(socket, tunnel, { head, clientHead: upgrade.head }, () => around.microvms.activity(upgrade.microvmId));
    resolve(undefined);
  });
  outgoing.once('response', (incoming) => {
    const response = plainResponse(upgrade.request, socket);
    try {
      response.writeHead(incoming.statusCode ?? 502, responseHeaders(incoming.rawHeaders, requestId));
    } catch {
      socket.destroy();
      outgoing.destroy();
    }
    incoming.pipe(response);
    incoming.once('close', () => {
      if (!incoming.complete) response.destroy();
      resolve(undefined);
    });
    incoming.on('error', () => {});
  });
  outgoing.on('error', resolve);
  outgoing.once('close', () => resolve(new Error('the app closed without an answer')));
  outgoing.end();
  return promise;
}

function outgoingHeaders(upgrade: Upgrade): string[] {
  const { request, protocols, requestId } = upgrade;
  const headers: string[] = [];
  for (const [name, value] of pairsOf(requestHeaders(request.rawHeaders, requestId))) {
    if (protocols !== undefined && name.toLowerCase() === 'sec-websocket-protocol') continue;
    headers.push(name, value);
  }
  if (protocols !== undefined && protocols.forApp !== '') headers.push('Sec-WebSocket-Protocol', protocols.forApp);
  headers.push('Connection', 'Upgrade', 'Upgrade', 'websocket');
  return headers;
}

/** The app's 101 as the client sees it: the marker counts as selected when the app selected nothing (behaviour.md §9.6). */
function switchingHead(incoming: IncomingMessage, upgrade: Upgrade): string {
  const headers = responseHeaders(incoming.rawHeaders, upgrade.requestId);
  headers.push('Connection', 'Upgrade', 'Upgrade', 'websocket');
  if (upgrade.protocols?.marked === true && incoming.headers['sec-websocket-protocol'] === undefined) {
    headers.push('Sec-WebSocket-Protocol', MARKER);
  }
  const lines = [...pairsOf(headers)].map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 101 Switching Protocols\r\n${lines.join('')}\r\n`;
}

/** Joins two byte streams until either ends; then both are over. */
function splice(
  client: Socket,
  tunnel: Duplex,
  early: { head: Buffer; clientHead: Buffer },
  activity: () => void,
): void {
  client.setNoDelay(true);
  if (early.head.length > 0) client.write(early.head);
  if (early.clientHead.length > 0) tunnel.write(early.clientHead);
  client.on('data', activity).pipe(tunnel);
  tunnel.on('data', activity).pipe(client);
  const end = () => {
    client.destroySoon();
    tunnel.destroy();
  };
  client.on('error', end).once('close', end);
  tunnel.on('error', end).once('close', end);
}
