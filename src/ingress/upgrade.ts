/**
 * WebSocket upgrades: admitted, woken and forwarded like a request; once the app agreed, bytes pass untouched both ways.
 *
 * Invariant: raw bytes flow only after the app's own 101. An app that answers otherwise gets an ordinary, closed exchange,
 * so nobody can slip further requests past the token check over a connection that looks upgraded.
 */
import { type ClientRequest, request as httpRequest, type IncomingMessage, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import { messageOf } from '../lib/index.ts';
import type { Protocols } from './admission.ts';
import { BAD_GATEWAY, type Refusal } from './answers.ts';
import { MAX_HEADER_BYTES, type Surroundings } from './forward.ts';
import { pairsOf, type RawHeaders, REQUEST_ID, requestHeaders, responseHeaders } from './headers.ts';
import { MARKER } from './protocols.ts';
import { reach } from './reach.ts';
import { splice } from './splice.ts';
import type { Opened } from './upstream.ts';

/** What is needed of the request that asks for the upgrade. */
export interface UpgradeRequest {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
  readonly rawHeaders: RawHeaders;
}

export interface Upgrade {
  readonly request: UpgradeRequest;
  readonly socket: Duplex;
  /** What the client sent behind its upgrade request. */
  readonly head: Buffer;
  readonly microvmId: string;
  readonly port: number;
  readonly protocols: Protocols | undefined;
  /** Asked for with a shell token. */
  readonly isShell: boolean;
  readonly requestId: string;
}

/** Of answers before the answer: more than any app sends. */
const MAX_INTERIM = 16;

/** Never throws. The socket belongs to this function. */
export async function forwardUpgrade(upgrade: Upgrade, around: Surroundings): Promise<void> {
  const { socket, microvmId, requestId } = upgrade;
  const gone = new AbortController();
  const onClose = () => gone.abort();
  socket.once('close', onClose);
  try {
    const { got, underWay } = await reach(microvmId, around, gone.signal, (machine, signal) =>
      around.upstreams.open(machine, upgrade.port, signal),
    );
    using _underWay = underWay;
    const { tunnel } = got;
    const answer = await ask(got, upgrade, gone.signal);
    around.microvms.activity(microvmId);
    if (answer.kind === 'declined') return await decline(answer.incoming, socket, requestId);
    socket.write(switchingHead(answer.incoming, upgrade), 'latin1');
    splice(socket, tunnel, {
      early: { client: upgrade.head, tunnel: answer.head },
      clock: around.clock,
      onBytes: activityOf(microvmId, around),
    });
  } catch (error) {
    if (gone.signal.aborted) return;
    around.log.debug({ microvmId, requestId, error: messageOf(error) }, 'endpoint answers an upgrade with 502');
    refuseUpgrade(socket, BAD_GATEWAY, requestId);
  } finally {
    socket.off('close', onClose);
  }
}

/** Apart, so that it keeps nothing else alive: it lives as long as the connection, and thousands of those are silent. */
function activityOf(microvmId: string, { microvms }: Surroundings): () => void {
  return () => microvms.activity(microvmId);
}

/** Answers an upgrade request as if it were an ordinary one, and closes. */
export function refuseUpgrade(socket: Duplex, { status, text }: Refusal, requestId: string): void {
  const headers = [
    ...(text === '' ? [] : ['content-type', 'text/plain']),
    'content-length',
    String(text.length),
    'cache-control',
    'private, no-store',
    REQUEST_ID,
    requestId,
    'connection',
    'close',
  ];
  endWith(socket, `${headOf(status, STATUS_CODES[status] ?? '', headers)}${text}`);
}

type Answer =
  | { readonly kind: 'agreed'; readonly incoming: IncomingMessage; readonly head: Buffer }
  | { readonly kind: 'declined'; readonly incoming: IncomingMessage };

/** Sends the handshake and waits for the head of the app's answer. The tunnel is destroyed when there is none. */
async function ask({ tunnel, turn }: Opened, upgrade: Upgrade, gone: AbortSignal): Promise<Answer> {
  using _turn = turn;
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const outgoing: ClientRequest = httpRequest({
    createConnection: () => tunnel,
    method: 'GET',
    path: upgrade.request.url,
    headers: outgoingHeaders(upgrade),
    setHost: false,
    maxHeaderSize: MAX_HEADER_BYTES,
  });
  const onGone = () => outgoing.destroy();
  gone.addEventListener('abort', onGone, { once: true });
  outgoing.once('upgrade', (incoming, _tunnel, head) => resolve({ kind: 'agreed', incoming, head }));
  outgoing.once('response', (incoming) => resolve({ kind: 'declined', incoming }));
  let interim = 0;
  outgoing.on('information', () => {
    interim += 1;
    if (interim > MAX_INTERIM) outgoing.destroy(new Error('the app sends interim answers without end'));
  });
  outgoing.on('error', reject);
  outgoing.once('close', () => reject(new Error('the app closed without an answer')));
  outgoing.end();
  try {
    return await promise;
  } catch (error) {
    tunnel.destroy();
    throw error;
  } finally {
    gone.removeEventListener('abort', onGone);
  }
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
  return headOf(101, 'Switching Protocols', headers);
}

/** Passes on an ordinary answer, then closes: in chunks when its length is unknown, so that a cut one does not look whole. */
async function decline(incoming: IncomingMessage, socket: Duplex, requestId: string): Promise<void> {
  const status = incoming.statusCode ?? 502;
  const headers = responseHeaders(incoming.rawHeaders, requestId);
  const isChunked = incoming.headers['content-length'] === undefined && status !== 204 && status !== 304;
  headers.push('connection', 'close', ...(isChunked ? ['transfer-encoding', 'chunked'] : []));
  socket.write(headOf(status, incoming.statusMessage ?? '', headers), 'latin1');
  try {
    for await (const chunk of incoming) {
      if (isChunked) socket.write(`${chunk.length.toString(16)}\r\n`);
      socket.write(chunk);
      if (isChunked) socket.write('\r\n');
      if (socket.writableNeedDrain) await drained(socket);
    }
    endWith(socket, isChunked ? '0\r\n\r\n' : '');
  } catch {
    socket.destroy();
  }
}

function drained(socket: Duplex): Promise<void> {
  return new Promise((resolve, reject) => {
    const onClose = () => reject(new Error('the client is gone'));
    socket.once('close', onClose).once('drain', () => {
      socket.off('close', onClose);
      resolve();
    });
  });
}

function headOf(status: number, reason: string, headers: RawHeaders): string {
  const lines = [...pairsOf(headers)].map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 ${status} ${reason}\r\n${lines.join('')}\r\n`;
}

/** The last bytes, then the end; what the client still sends is not read. */
function endWith(socket: Duplex, bytes: string): void {
  socket.end(bytes, 'latin1', () => socket.destroy());
}
