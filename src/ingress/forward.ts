/**
 * One HTTP exchange between a client and an app: both bodies are streamed as they come, at the pace of the slower side.
 *
 * Invariant: the client gets one whole answer, a refusal, or a cut connection; never a truncated body that looks whole.
 * The request's body is read only once a tunnel stands, so a request may change tunnels until its first byte is sent.
 */
import { type ClientRequest, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import { type Clock, type Logger, messageOf, withDeadline } from '../lib/index.ts';
import type { Machine, Microvms } from '../microvms/index.ts';
import { BAD_GATEWAY, refuse } from './answers.ts';
import { pairsOf, type RawHeaders, requestHeaders, responseHeaders, trailers } from './headers.ts';
import { isMachineGone, type MachineAgent, type Upstreams } from './upstream.ts';

export const MAX_HEADER_BYTES = 65_536;
/** Bounds the wait for a launch or resume under way. */
export const WAKE_TIMEOUT_MS = 60_000;
/** A client that waits for `100 Continue` gets it from us when the app said nothing until then. */
const CONTINUE_MS = 1000;
/** A machine may be suspended between waking it and connecting to it; more often than this it is not bad luck. */
const ATTEMPTS = 3;

export interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly microvmId: string;
  readonly port: number;
  readonly requestId: string;
  readonly expectsContinue: boolean;
}

export interface Surroundings {
  readonly microvms: Pick<Microvms, 'wake' | 'activity' | 'exchange'>;
  readonly upstreams: Upstreams;
  readonly clock: Clock;
  readonly log: Logger;
}

/** Delivers an admitted request. Never throws: what goes wrong becomes a 502 or a cut connection. */
export async function forward(exchange: Exchange, around: Surroundings): Promise<void> {
  const { request, response, microvmId, requestId } = exchange;
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  around.microvms.activity(microvmId);
  try {
    for (let attempt = 1; ; attempt++) {
      const machine = await wake(around, microvmId, gone.signal);
      using _underWay = around.microvms.exchange(microvmId);
      const outcome = await tryOn(machine, exchange, around, gone.signal);
      if (outcome.kind === 'done') return;
      if (attempt === ATTEMPTS || outcome.kind === 'failed') throw outcome.error;
    }
  } catch (error) {
    if (gone.signal.aborted) return;
    around.log.debug({ microvmId, requestId, error: messageOf(error) }, 'endpoint answers 502');
    refuse(response, BAD_GATEWAY, requestId, around.clock);
    if (request.readableFlowing === null) request.resume();
  }
}

/** The live machine, woken if need be. @throws DomainError, MachineError */
export function wake(around: Surroundings, microvmId: string, signal: AbortSignal): Promise<Machine> {
  return withDeadline(
    'waking the microVM',
    WAKE_TIMEOUT_MS,
    (bounded) => around.microvms.wake(microvmId, { signal: bounded }),
    { signal },
  );
}

type Outcome =
  | { readonly kind: 'done' }
  /** Nothing was sent: the same request may go to another tunnel. */
  | { readonly kind: 'again'; readonly error: Error }
  | { readonly kind: 'failed'; readonly error: Error };

function tryOn(machine: Machine, exchange: Exchange, around: Surroundings, gone: AbortSignal): Promise<Outcome> {
  const { promise, resolve } = Promise.withResolvers<Outcome>();
  const agent = around.upstreams.agentFor(machine);
  let outgoing: ClientRequest;
  try {
    outgoing = open(exchange, agent);
  } catch (error) {
    return Promise.resolve({ kind: 'failed', error: new Error(messageOf(error)) });
  }
  const hasBody = bodyFollows(exchange.request);
  let connected = false;
  let answered = false;
  const onGone = () => outgoing.destroy();
  gone.addEventListener('abort', onGone, { once: true });

  outgoing.once('socket', () => {
    connected = true;
    sendBody(exchange, outgoing, hasBody, () => around.microvms.activity(exchange.microvmId));
  });
  if (exchange.expectsContinue) allowBody(exchange.response, outgoing, around.clock);
  outgoing.once('response', (incoming) => {
    answered = true;
    const activity = () => around.microvms.activity(exchange.microvmId);
    try {
      relay(incoming, exchange, activity).finally(() => resolve({ kind: 'done' }));
    } catch (error) {
      // The app's answer is one that Node refuses to write (a status of 000, a control character).
      outgoing.destroy();
      resolve({ kind: 'failed', error: new Error(messageOf(error)) });
    }
  });
  outgoing.on('error', (error) => {
    if (answered || gone.aborted) return resolve({ kind: 'done' });
    const stale = connected && outgoing.reusedSocket && !hasBody;
    if (stale) agent.dropIdle(exchange.port);
    const retryable = stale || (!connected && isMachineGone(error));
    resolve({ kind: retryable ? 'again' : 'failed', error });
  });
  outgoing.once('close', () => {
    gone.removeEventListener('abort', onGone);
    if (!answered) resolve({ kind: 'failed', error: new Error('the app closed without an answer') });
  });
  return promise;
}

function open(exchange: Exchange, agent: MachineAgent): ClientRequest {
  const { request } = exchange;
  return httpRequest({
    agent,
    port: exchange.port,
    method: request.method,
    path: request.url,
    headers: outgoingHeaders(request, exchange.requestId),
    setHost: false,
    maxHeaderSize: MAX_HEADER_BYTES,
  });
}

/** What the app gets, with the framing of the request stated once. */
function outgoingHeaders(request: IncomingMessage, requestId: string): string[] {
  const headers = requestHeaders(request.rawHeaders, requestId);
  if (request.headers['transfer-encoding'] !== undefined) headers.push('Transfer-Encoding', 'chunked');
  else if (request.headers['content-length'] === undefined && mayHaveBody(request.method)) {
    headers.push('Content-Length', '0');
  }
  return headers;
}

function mayHaveBody(method: string | undefined): boolean {
  return method === 'POST' || method === 'PUT' || method === 'PATCH';
}

function bodyFollows({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
}

function sendBody(exchange: Exchange, outgoing: ClientRequest, hasBody: boolean, activity: () => void): void {
  const { request } = exchange;
  if (!hasBody) {
    outgoing.end();
    return;
  }
  outgoing.flushHeaders();
  request.on('data', (chunk: Buffer) => {
    activity();
    if (!outgoing.write(chunk)) request.pause();
  });
  outgoing.on('drain', () => request.resume());
  request.once('end', () => {
    endWith(outgoing, request.rawTrailers);
  });
  // An app may answer and hang up before it read everything: what is left is thrown away so that the client can finish.
  outgoing.once('close', () => {
    request.removeAllListeners('data');
    request.resume();
  });
}

/** Ends a message with the trailers of the other side; ones that can't be written cut it. */
function endWith(message: ClientRequest | ServerResponse, rawTrailers: RawHeaders): void {
  try {
    const tail = trailers(rawTrailers);
    if (tail.length > 0) message.addTrailers(tail);
    message.end();
  } catch {
    message.destroy();
  }
}

function allowBody(response: ServerResponse, outgoing: ClientRequest, clock: Clock): void {
  let said = false;
  const say = () => {
    if (said || response.headersSent || response.destroyed) return;
    said = true;
    response.writeContinue();
  };
  const timer = clock.after(CONTINUE_MS, say);
  outgoing.once('continue', say);
  outgoing.once('close', () => timer[Symbol.dispose]());
}

/** Passes the app's answer on; resolves when it ended, either way. */
function relay(incoming: IncomingMessage, exchange: Exchange, activity: () => void): Promise<void> {
  const { response } = exchange;
  const { promise, resolve } = Promise.withResolvers<void>();
  activity();
  response.writeHead(incoming.statusCode ?? 502, incoming.statusMessage ?? '', writableHeaders(incoming, exchange));
  let written = false;
  incoming.on('data', (chunk: Buffer) => {
    activity();
    written = true;
    if (!response.write(chunk)) incoming.pause();
  });
  response.on('drain', () => incoming.resume());
  incoming.once('end', () => {
    endWith(response, incoming.rawTrailers);
  });
  incoming.once('close', () => {
    if (!incoming.complete) response.destroy();
    resolve();
  });
  incoming.on('error', () => {});
  // Headers go together with the first bytes when those are already here, alone when the app takes its time (SSE).
  setImmediate(() => {
    if (!written && !response.writableEnded && !response.destroyed) response.flushHeaders();
  });
  return promise;
}

/** Announced trailers need chunks; where there will be none (known length, HTTP/1.0 client) the announcement goes too. */
function writableHeaders(incoming: IncomingMessage, { request, requestId }: Exchange): string[] {
  const headers = responseHeaders(incoming.rawHeaders, requestId);
  const isChunked = incoming.headers['transfer-encoding'] !== undefined && request.httpVersionMinor > 0;
  if (isChunked || incoming.headers.trailer === undefined) return headers;
  return [...pairsOf(headers)].filter(([name]) => name.toLowerCase() !== 'trailer').flat();
}
