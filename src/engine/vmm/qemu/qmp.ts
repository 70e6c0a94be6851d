/**
 * QEMU's control channel: one JSON message a line over a connected socket.
 *
 * Invariant: a command's promise always settles: with the answer, QEMU's error, the deadline, or the reason the channel
 * closed. Errors are made where the command was sent, so that their stack tells who asked.
 */
import type { Duplex } from 'node:stream';
import { MachineError, Pace } from '../../../lib/index.ts';

/** A command that takes longer hangs: the slowest, stopping with busy disks, takes well under a second. */
const COMMAND_TIMEOUT_MS = 30_000;
/** From the end of the channel to the end of the process. */
const OWNER_GRACE_MS = 2000;
/** No answer we ask for is near this. */
const MAX_LINE_BYTES = 1024 * 1024;

/** Of an error's text. */
const MAX_TEXT = 500;
/** A launch is a dozen. What a guest can provoke QEMU limits to one a second each, but QEMU itself may be the guest's. */
const MESSAGES = { perSecond: 500, burst: 2000 };

export type QmpCommand = readonly [execute: string, args?: Readonly<Record<string, unknown>>];

interface Pending {
  readonly command: string;
  readonly error: MachineError;
  readonly timer: NodeJS.Timeout;
  resolve(value: unknown): void;
  reject(error: Error): void;
}

interface Waiter {
  readonly event: string;
  accepts(data: EventData): boolean;
  resolve(): void;
  reject(error: Error): void;
}

type EventData = Readonly<Record<string, unknown>>;

export class Qmp {
  readonly #channel: Duplex;
  readonly #pending = new Map<number, Pending>();
  readonly #waiters = new Set<Waiter>();
  #lastId = 0;
  #pieces: string[] = [];
  #length = 0;
  #messages = 0;
  readonly #pace = new Pace(MESSAGES);
  #closed: MachineError | undefined;

  constructor(channel: Duplex) {
    this.#channel = channel;
    channel.setEncoding('utf8');
    channel.on('data', (text: string) => this.#receive(text));
    channel.on('error', () => {});
    channel.on('close', () => {
      // The owner closes with the reason and the evidence as soon as the process has ended.
      const reason = new MachineError('exited', 'the VMM closed its control channel');
      setTimeout(() => this.close(reason), OWNER_GRACE_MS).unref();
    });
  }

  execute(command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown> {
    return this.executeAll([args === undefined ? [command] : [command, args]]);
  }

  /** Sends all commands in one write; QEMU runs them in order. Resolves with the last one's answer, rejects with the first error. */
  async executeAll(commands: readonly QmpCommand[], timeoutMs = COMMAND_TIMEOUT_MS): Promise<unknown> {
    const answers: Promise<unknown>[] = [];
    let text = '';
    for (const [execute, args] of commands) {
      const { id, answer } = this.#expect(execute, timeoutMs);
      answers.push(answer);
      text += `${JSON.stringify(args === undefined ? { execute, id } : { execute, arguments: args, id })}\n`;
    }
    if (this.#closed === undefined) this.#channel.write(text);
    return (await Promise.all(answers)).at(-1);
  }

  /** The next event of this name that `accepts` takes; ask before sending what causes it. */
  event(event: string, accepts: (data: EventData) => boolean = () => true): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    promise.catch(() => {});
    if (this.#closed !== undefined) reject(this.#closed);
    else this.#waiters.add({ event, accepts, resolve, reject });
    return promise;
  }

  /** Rejects everything that waits. Idempotent. */
  close(reason: MachineError): void {
    if (this.#closed !== undefined) return;
    this.#closed = reason;
    for (const { command, error, timer, reject } of this.#pending.values()) {
      clearTimeout(timer);
      reject(because(error, reason.kind, `${command}: ${reason.message}`, reason.evidence));
    }
    this.#pending.clear();
    for (const waiter of this.#waiters) waiter.reject(reason);
    this.#waiters.clear();
    this.#channel.destroy();
  }

  #expect(command: string, timeoutMs: number): { id: number; answer: Promise<unknown> } {
    const id = ++this.#lastId;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    promise.catch(() => {});
    const error = new MachineError('failed', command);
    if (this.#closed !== undefined) {
      reject(because(error, this.#closed.kind, `${command}: ${this.#closed.message}`, this.#closed.evidence));
      return { id, answer: promise };
    }
    const timer = setTimeout(() => {
      this.#pending.delete(id);
      reject(because(error, 'timeout', `the VMM did not answer ${command} within ${timeoutMs} ms`));
    }, timeoutMs);
    this.#pending.set(id, { command, error, timer, resolve, reject });
    return { id, answer: promise };
  }

  /** A flood of messages is read at a rate; only its own VM waits. */
  #receive(text: string): void {
    const before = this.#messages;
    let at = 0;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', at)) {
      const line = this.#pieces.join('') + text.slice(at, end);
      this.#pieces = [];
      this.#length = 0;
      at = end + 1;
      this.#messages += 1;
      this.#message(line);
      if (this.#closed !== undefined) return;
    }
    // Joined only when the line is whole: looking through all of it at every piece would cost its square.
    if (at < text.length) this.#pieces.push(text.slice(at));
    this.#length += text.length - at;
    if (this.#length > MAX_LINE_BYTES) {
      this.close(new MachineError('protocol', 'the VMM sent an endless line on its control channel'));
      return;
    }
    const waitMs = this.#pace.take(this.#messages - before);
    if (waitMs === 0) return;
    this.#channel.pause();
    setTimeout(() => this.#channel.resume(), waitMs).unref();
  }

  #message(line: string): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      message = undefined;
    }
    if (!isObject(message)) {
      this.close(new MachineError('protocol', 'the VMM sent no JSON object on its control channel'));
    } else if (typeof message.event === 'string') this.#happened(message.event, message.data);
    else if (typeof message.id === 'number') this.#answered(message.id, message);
  }

  #answered(id: number, message: Readonly<Record<string, unknown>>): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    if (message.error === undefined) {
      pending.resolve(message.return);
      return;
    }
    const desc = isObject(message.error) ? message.error.desc : undefined;
    const text = typeof desc === 'string' ? desc.slice(0, MAX_TEXT) : 'refused without a reason';
    pending.reject(because(pending.error, 'failed', `${pending.command}: ${text}`));
  }

  #happened(event: string, data: unknown): void {
    const given = isObject(data) ? data : {};
    for (const waiter of this.#waiters) {
      if (waiter.event !== event || !waiter.accepts(given)) continue;
      this.#waiters.delete(waiter);
      waiter.resolve();
    }
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}

/** The error made at send time, told what went wrong: its stack stays that of the sender. */
function because(error: MachineError, kind: MachineError['kind'], message: string, evidence = ''): MachineError {
  const result = new MachineError(kind, message, { evidence });
  result.stack = `${result.name}: ${message}\n${error.stack?.split('\n').slice(1).join('\n') ?? ''}`;
  return result;
}
