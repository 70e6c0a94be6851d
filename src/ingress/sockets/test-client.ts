/** For the tests of what ends in the ingress itself: WebSocket clients of a bench's endpoint, and shells the test plays. */
import { WebSocket } from 'ws';
import { createFakeEngine, type FakeShell } from '../../engine/index.ts';
import { type Bench, createBench } from '../test-bench.ts';

export interface Said {
  readonly texts: string[];
  /** All binary messages as one text. */
  shown: string;
}

export interface Client extends Said {
  readonly socket: WebSocket;
  /** The status of a refusal; 101 once it is open. */
  readonly answered: Promise<number>;
  readonly closed: Promise<{ code: number; reason: string }>;
  /** Resolves when `holds` does; it is asked again with every message. */
  until(holds: (said: Said) => boolean): Promise<void>;
}

export interface ClientOptions {
  readonly token?: string;
  readonly path?: string;
  readonly protocols?: readonly string[];
  readonly headers?: Readonly<Record<string, string>>;
  readonly autoPong?: boolean;
}

export function dial(bench: Bench, options: ClientOptions = {}): Client {
  const { token, path = '/', protocols = [], headers = {}, autoPong = true } = options;
  const socket = new WebSocket(`wss://localhost:${bench.port}${path}`, [...protocols], {
    ca: bench.ingress.caPem,
    autoPong,
    perMessageDeflate: false,
    headers: { ...(token === undefined ? {} : { 'x-aws-proxy-auth': token }), ...headers },
  } as ConstructorParameters<typeof WebSocket>[2]);
  const answered = Promise.withResolvers<number>();
  const closed = Promise.withResolvers<{ code: number; reason: string }>();
  const said: Said = { texts: [], shown: '' };
  let moved = Promise.withResolvers<void>();
  const next = () => {
    moved = Promise.withResolvers();
    moved.promise.catch(() => {});
  };
  next();
  answered.promise.catch(() => {});
  socket.on('error', (error) => {
    answered.reject(error);
    moved.reject(error);
  });
  socket.once('open', () => answered.resolve(101));
  socket.once('unexpected-response', (request, response) => {
    answered.resolve(response.statusCode ?? 0);
    request.destroy();
  });
  socket.on('message', (data, isBinary) => {
    if (isBinary) said.shown += data.toString();
    else said.texts.push(data.toString());
    moved.resolve();
    next();
  });
  socket.once('close', (code, reason) => closed.resolve({ code, reason: reason.toString() }));
  return Object.assign(said, {
    socket,
    answered: answered.promise,
    closed: closed.promise,
    async until(holds: (said: Said) => boolean) {
      while (!holds(said)) await moved.promise;
    },
  });
}

/** A bench whose machine has this shell; null: none. The token is a shell's. */
export async function shellBench(
  shell?: FakeShell | null,
  options: Parameters<typeof createBench>[2] = {},
): Promise<{ bench: Bench; token: string } & AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const bench = stack.use(await createBench(undefined, undefined, options));
  if (shell !== undefined) {
    const engine = stack.use(createFakeEngine({ anySnapshot: true, shell }));
    const machine = await engine.launch({ id: bench.id, snapshotDir: '/nowhere' }, {});
    bench.traffic.onWake = async () => machine;
  }
  const token = bench.traffic.issue({ microvmId: bench.id, kind: 'shell', ports: [] });
  const owned = stack.move();
  return { bench, token, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}
