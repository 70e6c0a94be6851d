/**
 * The agent's side of the link in TypeScript, for tests and for the fake VMM: serves a unix socket as QEMU does (one
 * client at a time) and answers what its handlers say.
 */
import { rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { Mux } from './mux.ts';
import type { MuxStream } from './mux-stream.ts';
import { encodeAnswer } from './session.ts';

export interface TestAgentOptions {
  readonly socketPath: string;
  readonly secret?: string;
  /** Calls by `op`: the answer's object; throw to reset with `failed`. */
  readonly calls?: Record<string, (request: Record<string, unknown>) => unknown>;
  /** Streams by `op` (`tunnel`, `logs`, `exec`): take it over; accepted already. Throw to reset with `refused`. */
  readonly streams?: Record<string, (request: Record<string, unknown>, stream: Duplex) => void>;
  /** Called for each restore step, before the answer. Throw to fail it. */
  onRestore?(step: { wallClockMs: number; seed: string; nextSecret: string }): void;
  /** Preambles to swallow without an answer, for the watchdog's test. */
  readonly deafFor?: number;
  /** Bytes sent before the answer, as an earlier session's would be. */
  readonly stale?: Buffer;
  readonly generation?: number;
}

export interface TestAgent extends AsyncDisposable {
  /** The secret it has now. */
  readonly secret: string | undefined;
  readonly sessions: number;
  /** Cuts the session as a VMM restart would. */
  hangUp(): void;
  /** Raw bytes to the host, behind what streams send in this turn. */
  send(bytes: Buffer): void;
}

const MAGIC = Buffer.from('\0RKLINK1', 'latin1');

export async function serveTestAgent(options: TestAgentOptions): Promise<TestAgent> {
  await rm(options.socketPath, { force: true });
  const agent = new SocketAgent(options);
  await agent.listen();
  return agent;
}

interface Preamble {
  nonce: string;
  secret: string;
  restore: null | { wallClockMs: number; seed: string; nextSecret: string };
}

class SocketAgent implements TestAgent {
  secret: string | undefined;
  sessions = 0;
  readonly #options: TestAgentOptions;
  readonly #server: Server;
  #deafFor: number;
  #socket: Socket | undefined;
  #mux: Mux | undefined;

  constructor(options: TestAgentOptions) {
    this.#options = options;
    this.secret = options.secret;
    this.#deafFor = options.deafFor ?? 0;
    this.#server = createServer((socket) => this.#connected(socket));
  }

  listen(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject).listen(this.#options.socketPath, resolve);
    });
  }

  hangUp(): void {
    this.#socket?.destroy();
  }

  send(bytes: Buffer): void {
    const socket = this.#socket;
    setImmediate(() => socket?.write(bytes));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket?.destroy();
    this.#mux?.fail(new Error('the agent ended'));
    if (this.#server.listening) await new Promise((resolve) => this.#server.close(resolve));
  }

  #connected(socket: Socket): void {
    this.#socket = socket;
    socket.on('error', () => {});
    socket.on('close', () => {
      if (this.#socket === socket) this.#mux?.fail(new Error('the host hung up'));
    });
    socket.on('data', (chunk: Buffer) => {
      const preamble = this.#preamble(chunk);
      if (preamble !== undefined) this.#begin(socket, preamble);
      else this.#mux?.receive(chunk);
    });
  }

  #preamble(chunk: Buffer): Preamble | undefined {
    if (!chunk.subarray(0, 8).equals(MAGIC)) return undefined;
    const preamble = JSON.parse(chunk.subarray(12, 12 + chunk.readUInt32BE(8)).toString()) as Preamble;
    if (this.secret !== undefined && preamble.secret !== this.secret) return undefined;
    return preamble;
  }

  #begin(socket: Socket, preamble: Preamble): void {
    this.secret = preamble.secret;
    this.#mux?.fail(new Error('a new session began'));
    this.#mux = undefined;
    let error: string | null = null;
    if (preamble.restore !== null) {
      try {
        this.#options.onRestore?.(preamble.restore);
        this.secret = preamble.restore.nextSecret;
      } catch (cause) {
        error = String(cause);
      }
    }
    if (this.#deafFor > 0) {
      this.#deafFor -= 1;
      return;
    }
    this.sessions += 1;
    if (this.#options.stale !== undefined) socket.write(this.#options.stale);
    socket.write(encodeAnswer(preamble.nonce, this.#options.generation ?? 1, error));
    this.#mux = new Mux(socket, { side: 'agent', onOpen: (stream, request) => this.#opened(stream, request) });
  }

  #opened(stream: MuxStream, payload: Buffer): void {
    const request = JSON.parse(payload.toString()) as Record<string, unknown>;
    const op = String(request.op);
    const call = this.#options.calls?.[op];
    const take = this.#options.streams?.[op];
    if (call !== undefined) void this.#answer(stream, async () => call(request));
    else if (take !== undefined) {
      stream.accept();
      take(request, stream);
    } else stream.refuse(op === 'tunnel' ? 'refused' : 'invalid', `no ${op} here`);
  }

  async #answer(stream: MuxStream, call: () => Promise<unknown>): Promise<void> {
    try {
      const value = await call();
      stream.accept();
      stream.end(JSON.stringify(value ?? {}));
      stream.resume();
    } catch (error) {
      stream.refuse('failed', error instanceof Error ? error.message : String(error));
    }
  }
}
