/** WebSockets to a microVM's own HTTPS endpoint, for what the endpoint itself answers: shells and tunnels. */
import type { WebSocket } from 'ws';
import { MAX_MESSAGE_BYTES, messageOf } from '../lib/index.ts';
import { reach } from './endpoint.ts';
import { CliError, EXIT } from './exit.ts';

export interface SocketRequest {
  /** Host, with its port where it has one. */
  readonly endpoint: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly protocols?: readonly string[];
  readonly ca: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The endpoint answered, but not with a WebSocket. */
export class SocketRefused extends CliError {
  readonly status: number;

  constructor(status: number, text: string) {
    super(`The endpoint answered ${status}${text === '' ? '' : ` ${text}`}${ADVICE[status] ?? ''}`);
    this.status = status;
  }
}

const ADVICE: Readonly<Record<number, string>> = {
  403: ': the token is not for this microVM and port.',
  429: ': too many requests for this microVM.',
  502: ': it has ended, or is suspended and may not be woken by traffic ("rekindle resume" wakes it).',
};

/** A launch or resume may be under way. */
const OPEN_TIMEOUT_MS = 90_000;
const MAX_REFUSAL_BYTES = 500;

/** Resolves when it is open. @throws SocketRefused, CliError */
export async function openEndpointSocket(request: SocketRequest): Promise<WebSocket> {
  const { WebSocket } = await import('ws');
  const { endpoint, path, headers, protocols = [], ca, signal } = request;
  signal?.throwIfAborted();
  const socket = new WebSocket(`wss://${endpoint}${path}`, [...protocols], {
    ...reach(ca),
    headers: { ...headers },
    perMessageDeflate: false,
    maxPayload: MAX_MESSAGE_BYTES,
    handshakeTimeout: OPEN_TIMEOUT_MS,
  } as ConstructorParameters<typeof WebSocket>[2]);
  const { promise, resolve, reject } = Promise.withResolvers<WebSocket>();
  const onAbort = () => reject(signal?.reason);
  signal?.addEventListener('abort', onAbort, { once: true });
  socket.once('open', () => resolve(socket));
  socket.once('unexpected-response', (sent, response) => {
    let text = '';
    response.setEncoding('utf8').on('data', (part: string) => {
      text = (text + part).slice(0, MAX_REFUSAL_BYTES);
    });
    response.once('close', () => {
      reject(new SocketRefused(response.statusCode ?? 0, text.replace(/\p{Cc}+/gu, ' ').trim()));
      sent.destroy();
    });
  });
  socket.on('error', (error) =>
    reject(new CliError(`The endpoint cannot be reached: ${messageOf(error)}`, EXIT.failed, { cause: error })),
  );
  try {
    return await promise;
  } catch (error) {
    socket.terminate();
    throw error;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}
