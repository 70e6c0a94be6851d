/** A machine that is an object: its ports are served by an in-process HTTP handler, its memory is the guest's record. */
import { createServer } from 'node:http';
import { type Duplex, duplexPair } from 'node:stream';
import { MachineError } from '../../../lib/index.ts';
import type {
  CheckpointReport,
  LogLine,
  Machine,
  MachineExit,
  RoleCredentials,
  Shell,
  SuspendReport,
  TerminalSize,
} from '../../engine.ts';
import type { FakeApp, FakeDisk, FakeEngineOptions, FakeGuest, FakeOperation, FakeShell } from './fake-types.ts';

/** What a machine needs of its engine. */
export interface FakeMachineHost {
  readonly disk: FakeDisk;
  readonly machines: Map<string, FakeMachine>;
  readonly credentials: Map<string, RoleCredentials>;
  readonly leaving: boolean;
  enter(operation: FakeOperation, id: string, signal?: AbortSignal): Promise<void>;
  give(id: string, credentials: RoleCredentials | null, signal?: AbortSignal): Promise<void>;
}

const countingApp: FakeApp = (guest) => (_request, response) => {
  const count = Number(guest.memory.count ?? 0) + 1;
  guest.memory.count = count;
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify({ id: guest.id, count }));
};

const echoingShell: FakeShell = (terminal, { onResize }) => {
  onResize(({ cols, rows }) => terminal.write(`[${cols}x${rows}]`));
  terminal.pipe(terminal);
};

export class FakeMachine implements Machine {
  readonly id: string;
  readonly pid = process.pid;
  readonly exited: Promise<MachineExit>;
  readonly #engine: FakeMachineHost;
  readonly #guest: FakeGuest;
  readonly #options: FakeEngineOptions;
  readonly #exit = Promise.withResolvers<MachineExit>();
  readonly #streams = new Set<Duplex>();
  readonly #lines: LogLine[] = [];
  #printed = Promise.withResolvers<void>();
  #live = true;

  constructor(engine: FakeMachineHost, guest: FakeGuest, options: FakeEngineOptions) {
    this.#engine = engine;
    this.#guest = guest;
    this.#options = options;
    this.id = guest.id;
    this.exited = this.#exit.promise;
  }

  async connect(port: number, { signal }: { signal?: AbortSignal } = {}): Promise<Duplex> {
    await this.#engine.enter('connect', this.id, signal);
    if (!this.#live) throw new MachineError('exited', `${this.id} has ended`);
    if (this.#options.listening?.includes(port) === false) {
      throw new MachineError('failed', `nothing listens on port ${port} in ${this.id}`);
    }
    const [near, far] = duplexPair();
    const server = createServer((this.#options.app ?? countingApp)(this.#guest, port));
    server.keepAliveTimeout = 0;
    server.emit('connection', far);
    this.#streams.add(near);
    near.once('close', () => {
      this.#streams.delete(near);
      far.destroy();
    });
    return near;
  }

  async openShell(size: TerminalSize, { signal }: { signal?: AbortSignal } = {}): Promise<Shell> {
    await this.#engine.enter('openShell', this.id, signal);
    if (!this.#live) throw new MachineError('exited', `${this.id} has ended`);
    const { shell = echoingShell } = this.#options;
    if (shell === null) throw new MachineError('failed', 'the image has no shell (bash, sh or busybox)');
    const [near, far] = duplexPair();
    const exited = Promise.withResolvers<number>();
    const listeners: ((size: TerminalSize) => void)[] = [];
    const exit = (code: number) => {
      near.once('end', () => exited.resolve(code));
      far.end();
    };
    this.#streams.add(near);
    near.once('close', () => {
      this.#streams.delete(near);
      far.destroy();
    });
    shell(far, { guest: this.#guest, size, onResize: (listener) => void listeners.push(listener) }, exit);
    return Object.assign(near, {
      exited: exited.promise,
      resize: (next: TerminalSize) => {
        for (const listener of listeners) listener(next);
      },
    });
  }

  async setCredentials(credentials: RoleCredentials | null, { signal }: { signal?: AbortSignal } = {}): Promise<void> {
    if (!this.#live) throw new MachineError('exited', `${this.id} has ended`);
    await this.#engine.give(this.id, credentials, signal);
  }

  async suspend({ signal }: { signal?: AbortSignal } = {}): Promise<SuspendReport> {
    await this.#engine.enter('suspend', this.id, signal);
    if (!this.#live) throw new MachineError('exited', `${this.id} has ended`);
    this.#engine.disk.machines.set(this.id, structuredClone(this.#guest.memory));
    this.#engine.disk.suspendedAt.set(this.id, (this.#options.now ?? Date.now)());
    this.#engine.disk.checkpoints.delete(this.id);
    await this.#engine.enter('suspended', this.id);
    this.#close();
    return { deltaBytes: 3_600_000, tookMs: 14 };
  }

  async checkpoint({ signal }: { signal?: AbortSignal } = {}): Promise<CheckpointReport> {
    if (!this.#live) throw new MachineError('exited', `${this.id} has ended`);
    await this.#engine.give(this.id, null, signal);
    const memory = structuredClone(this.#guest.memory);
    const takenAt = (this.#options.now ?? Date.now)();
    await this.#engine.enter('checkpoint', this.id, signal);
    if (!this.#live) throw new MachineError('exited', `${this.id} has ended`);
    this.#engine.disk.checkpoints.set(this.id, { memory, takenAt });
    await this.#engine.enter('checkpointed', this.id, signal);
    return { deltaBytes: 3_600_000, pausedMs: 20 };
  }

  async *logs(options: { cursor?: number; follow?: boolean; signal?: AbortSignal }): AsyncIterable<LogLine> {
    let cursor = options.cursor ?? 0;
    for (;;) {
      for (const line of this.#lines.filter((l) => l.cursor >= cursor)) {
        cursor = line.cursor + 1;
        yield line;
      }
      if (options.follow !== true || !this.#live) return;
      await abortable(this.#printed.promise, options.signal);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#engine.leaving) this.#close();
  }

  print(text: string, stream: 'stdout' | 'stderr'): void {
    this.#lines.push({ cursor: this.#lines.length, at: Date.now(), stream, text });
    this.#wakeReaders();
  }

  end(exit: MachineExit): void {
    if (exit.kind === 'vmm') this.#close();
    this.#exit.resolve(exit);
  }

  #close(): void {
    this.#live = false;
    if (this.#engine.machines.get(this.id) === this) {
      this.#engine.credentials.delete(this.id);
      this.#engine.machines.delete(this.id);
      if (this.#engine.disk.processes.get(this.id) === this.#guest) this.#engine.disk.processes.delete(this.id);
    }
    for (const stream of this.#streams) stream.destroy();
    this.#wakeReaders();
  }

  #wakeReaders(): void {
    this.#printed.resolve();
    this.#printed = Promise.withResolvers<void>();
  }
}

/** Rejects when `signal` aborts; the work itself goes on. */
export function abortable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    if (signal.aborted) return onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
