/** What the HTTP/2 tests share: the ingress bench with a client session, and apps that are byte streams of any protocol. */
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  createServer,
  type ServerHttp2Stream,
} from 'node:http2';
import { type Duplex, duplexPair } from 'node:stream';
import type { FakeApp } from '../../engine/index.ts';
import type { RawHeaders } from '../headers.ts';
import type { IngressOptions } from '../ingress.ts';
import { type Bench, createBench } from '../test-bench.ts';
import { Shielded } from './shielded.ts';

/** Takes connections to a port of the guest. */
export type Listener = (connection: Duplex) => void;

export interface Http2Bench extends Bench {
  readonly session: ClientHttp2Session;
  /** Whatever connects to that port of the guest from now on. */
  listen(port: number, listener: Listener): void;
  /** A session of its own. */
  connect(): ClientHttp2Session;
  /** A request on the shared session; the token is added. */
  ask(headers?: Record<string, string | string[]>, body?: string | Buffer): Promise<Told>;
  /** The same, driven by hand. */
  open(headers?: Record<string, string | string[]>, options?: { endStream?: boolean }): ClientHttp2Stream;
}

export interface Told {
  readonly status: number;
  readonly headers: RawHeaders;
  readonly trailers: RawHeaders;
  readonly body: string;
  /** With which the stream ended. */
  readonly code: number;
}

export async function createHttp2Bench(app?: FakeApp, options: Partial<IngressOptions> = {}): Promise<Http2Bench> {
  await using stack = new AsyncDisposableStack();
  const bench = stack.use(await createBench(app, undefined, options));
  const sessions = new Set<ClientHttp2Session>();
  stack.defer(() => {
    for (const session of sessions) session.destroy();
  });
  const connectToo = () => {
    const session = connect(`https://localhost:${bench.port}`, { ca: bench.ingress.caPem });
    session.on('error', () => {});
    sessions.add(session);
    return session;
  };
  const session = connectToo();
  const machine = await bench.traffic.onWake(bench.id);
  const listeners = new Map<number, Listener>();
  const connectToApp = machine.connect.bind(machine);
  machine.connect = async (port, how) => {
    const listener = listeners.get(port);
    if (listener === undefined) return connectToApp(port, how);
    const [near, far] = duplexPair();
    far.on('error', () => {});
    near.once('close', () => far.destroy());
    listener(far);
    return near;
  };
  const open: Http2Bench['open'] = (headers = {}, how) => {
    const stream = session.request({ ':path': '/', 'x-aws-proxy-auth': bench.token, ...headers }, how);
    stream.on('error', () => {});
    return stream;
  };
  const owned = stack.move();
  return {
    ...bench,
    session,
    listen: (port, listener) => void listeners.set(port, listener),
    connect: connectToo,
    open,
    ask: (headers, body) => {
      const stream = open(headers, { endStream: body === undefined });
      if (body !== undefined) stream.end(body);
      return toldOf(stream);
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

export function toldOf(stream: ClientHttp2Stream): Promise<Told> {
  const { promise, resolve } = Promise.withResolvers<Told>();
  let status = 0;
  let headers: RawHeaders = [];
  let trailers: RawHeaders = [];
  let body = '';
  stream.on('error', () => {});
  stream.once('response', (head, _flags, raw) => {
    status = head[':status'] ?? 0;
    headers = raw;
  });
  stream.once('trailers', (_head, _flags, raw) => {
    trailers = raw;
  });
  stream.on('data', (chunk) => {
    body += chunk;
  });
  stream.once('close', () => resolve({ status, headers, trailers, body, code: stream.rstCode ?? 0 }));
  return promise;
}

/** An app that speaks HTTP/2 in the clear. */
export function h2cApp(onStream: (stream: ServerHttp2Stream, headers: RawHeaders) => void): Listener {
  const server = createServer();
  server.on('session', (session) => session.on('error', () => {}));
  server.on('stream', (stream: ServerHttp2Stream, _headers: unknown, _flags: number, raw: RawHeaders) => {
    stream.on('error', () => {});
    onStream(stream, raw);
  });
  return (connection) => server.emit('connection', new Shielded(connection));
}
