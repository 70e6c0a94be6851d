/**
 * The gateway's control channel: one JSON object a line over its unix socket (spec/gateway-protocol.md §3).
 *
 * Invariant: every request settles, with the answer, the gateway's refusal, the deadline, or the reason the channel closed.
 * A gateway that breaks the protocol or leaves a request without an answer is closed: only its successor can be relied on.
 */
import { connect, type Socket } from 'node:net';
import { MachineError } from '../../lib/index.ts';
import type { Egress } from '../egress.ts';

/** A round trip takes a tenth of a millisecond, seconds when many machines start at once on few cores. */
const ANSWER_TIMEOUT_MS = 10_000;
/** Of the protocol. */
const MAX_LINE_BYTES = 1024 * 1024;
const MAX_SENTENCE = 500;
export const GENERATION = 1;

export interface Hello {
  readonly version: string;
  readonly guests: readonly string[];
}

export interface GuestStats {
  readonly flows: number;
  readonly flowsInAll: number;
  readonly refused: number;
  readonly dropped: number;
  readonly queries: number;
  readonly bytesOut: number;
  readonly bytesIn: number;
  readonly connected: boolean;
}

interface Pending {
  readonly op: string;
  readonly timer: NodeJS.Timeout;
  resolve(result: unknown): void;
  reject(error: Error): void;
}

export class ControlChannel implements Disposable {
  /** Resolves with the reason; never rejects. */
  readonly closed: Promise<MachineError>;
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  readonly #closed = Promise.withResolvers<MachineError>();
  #reason: MachineError | undefined;
  #lastId = 0;
  #parts: Buffer[] = [];
  #bytes = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.closed = this.#closed.promise;
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', () => {});
    socket.on('close', () => this.close(new MachineError('exited', 'the network gateway closed its control channel')));
  }

  /** @throws Error of the socket */
  static open(socketPath: string): Promise<ControlChannel> {
    const socket = connect(socketPath);
    return new Promise((resolve, reject) => {
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        socket.unref();
        resolve(new ControlChannel(socket));
      });
    });
  }

  get isOpen(): boolean {
    return this.#reason === undefined;
  }

  /** @throws MachineError `unsupported` for a gateway of another generation */
  async hello(): Promise<Hello> {
    const { generation, version, guests } = await this.#request('hello', {});
    if (generation !== GENERATION) {
      throw new MachineError('unsupported', `the network gateway is of generation ${String(generation).slice(0, 20)}`);
    }
    if (typeof version !== 'string' || !Array.isArray(guests) || !guests.every((guest) => typeof guest === 'string')) {
      throw this.#broken('the network gateway introduced itself wrongly');
    }
    return { version, guests };
  }

  /** @throws MachineError `failed` with the gateway's sentence when it refuses: what held before holds on */
  async attach(guest: string, { policy, limits, labels }: Egress): Promise<void> {
    await this.#request('attach', { guest, policy, limits: limits ?? {}, labels });
  }

  async detach(guest: string): Promise<void> {
    await this.#request('detach', { guest });
  }

  async cut(guest: string): Promise<void> {
    await this.#request('cut', { guest });
  }

  async stats(guest: string): Promise<GuestStats> {
    const { connected, ...counts } = await this.#request('stats', { guest });
    const count = (name: string) => (Number.isSafeInteger(counts[name]) ? Number(counts[name]) : 0);
    return {
      flows: count('flows'),
      flowsInAll: count('flowsInAll'),
      refused: count('refused'),
      dropped: count('dropped'),
      queries: count('queries'),
      bytesOut: count('bytesOut'),
      bytesIn: count('bytesIn'),
      connected: connected === true,
    };
  }

  /** Rejects what waits. Idempotent. */
  close(reason: MachineError): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    this.#socket.destroy();
    for (const { op, timer, reject } of this.#pending.values()) {
      clearTimeout(timer);
      reject(new MachineError(reason.kind, `${op}: ${reason.message}`));
    }
    this.#pending.clear();
    this.#closed.resolve(reason);
  }

  [Symbol.dispose](): void {
    this.close(new MachineError('exited', 'the control channel was closed'));
  }

  #request(op: string, members: Readonly<Record<string, unknown>>): Promise<Readonly<Record<string, unknown>>> {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      if (this.#reason !== undefined)
        return reject(new MachineError(this.#reason.kind, `${op}: ${this.#reason.message}`));
      const line = `${JSON.stringify({ id, op, ...members })}\n`;
      if (Buffer.byteLength(line) > MAX_LINE_BYTES) {
        return reject(new MachineError('failed', 'the egress policy is larger than the network gateway takes'));
      }
      const timer = setTimeout(() => {
        this.close(new MachineError('timeout', `the network gateway did not answer within ${ANSWER_TIMEOUT_MS} ms`));
      }, ANSWER_TIMEOUT_MS);
      this.#pending.set(id, {
        op,
        timer,
        reject,
        resolve: (result) => {
          if (isRecord(result)) resolve(result);
          else reject(this.#broken('the network gateway sent an answer without a result'));
        },
      });
      this.#socket.write(line);
    });
  }

  #receive(chunk: Buffer): void {
    let rest = chunk;
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      const line = Buffer.concat([...this.#parts, rest.subarray(0, end)]).toString('utf8');
      this.#parts = [];
      this.#bytes = 0;
      rest = rest.subarray(end + 1);
      this.#answer(line);
    }
    if (rest.length > 0) this.#parts.push(rest);
    this.#bytes += rest.length;
    if (this.#bytes > MAX_LINE_BYTES) this.#broken('the network gateway sent an endless line');
  }

  #answer(line: string): void {
    let answer: unknown;
    try {
      answer = JSON.parse(line);
    } catch {
      answer = undefined;
    }
    if (!isRecord(answer)) {
      this.#broken('the network gateway sent something that is no answer');
      return;
    }
    const pending = this.#pending.get(Number(answer.id));
    if (pending === undefined) return;
    this.#pending.delete(Number(answer.id));
    clearTimeout(pending.timer);
    if (answer.error === undefined) pending.resolve(answer.result);
    else pending.reject(new MachineError('failed', `the network gateway refused: ${sentence(answer.error)}`));
  }

  #broken(message: string): MachineError {
    const reason = new MachineError('protocol', message);
    this.close(reason);
    return reason;
  }
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** It goes into logs and answers: one line, not long. */
function sentence(error: unknown): string {
  return String(error)
    .replaceAll(/\p{Cc}+/gu, ' ')
    .slice(0, MAX_SENTENCE);
}
