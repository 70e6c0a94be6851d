/**
 * Opens one session with the agent: preamble out, everything skipped until the answer with our nonce comes back
 * (spec/agent-protocol.md §1).
 *
 * QEMU serves one client of the port at a time and may lose what is under way around a reconnect, so an attempt that
 * hears nothing is given up, its socket destroyed, and the next one starts afresh. The secret alternates between the old
 * and the next one then, because the restore step may have been done while only its answer was lost.
 */
import { randomBytes } from 'node:crypto';
import { connect, type IpcSocketConnectOpts, type Socket, type SocketConstructorOpts } from 'node:net';
import { MachineError } from '../lib/index.ts';
import { quoted, violation } from './frames.ts';
import type { RestoreStep } from './link.ts';

const PREAMBLE_MAGIC = Buffer.from('\0RKLINK1', 'latin1');
const ANSWER_MAGIC = Buffer.from('\0RKACKN1', 'latin1');
const MAX_ANSWER_BYTES = 4096;
/** Far beyond what the port and QEMU can have buffered of an earlier session. */
const MAX_SKIPPED_BYTES = 16 * 1024 * 1024;
/** An earlier session leaves one answer behind, perhaps a few. */
const MAX_FALSE_ANSWERS = 64;
const READ_BYTES = 65_536;
/** What all streams together may have on its way to the guest; less has bulk stop and go for every frame. */
const QUEUED_BYTES = 262_144;
const MAX_PATIENCE_MS = 5000;
const NO_SOCKET_PAUSE_MS = 5;

export interface SessionRequest {
  readonly socketPath: string;
  readonly secret: string;
  readonly restore?: RestoreStep | undefined;
  /** performance.now() at which to give up for good. */
  readonly deadlineAt: number;
  /** How long the first attempt waits for an answer; doubles with each further one. */
  readonly patienceMs: number;
  readonly signal?: AbortSignal | undefined;
}

export interface Session {
  readonly socket: Socket;
  readonly generation: number;
  /** Bytes that came behind the answer. */
  readonly rest: Buffer;
  /** Takes what the socket receives from now on; the buffer is reused after each call. False pauses the socket. */
  onBytes(receive: (chunk: Buffer) => boolean): void;
}

/** @throws MachineError `timeout`, `failed` (the agent could not restore), `unsupported`, `protocol`; the abort reason */
export async function openSession(request: SessionRequest): Promise<Session> {
  let patienceMs = request.patienceMs;
  const startedAt = performance.now();
  let last: Error | undefined;
  for (let unanswered = 0; performance.now() < request.deadlineAt; ) {
    request.signal?.throwIfAborted();
    const secret = unanswered % 2 === 1 && request.restore !== undefined ? request.restore.nextSecret : request.secret;
    const restore = request.restore && {
      ...request.restore,
      wallClockMs: request.restore.wallClockMs + performance.now() - startedAt,
    };
    const outcome = await attemptSession({ ...request, restore }, secret, patienceMs);
    if (!(outcome instanceof Error)) return outcome;
    last = outcome;
    if (outcome instanceof NoSocket) await pause(NO_SOCKET_PAUSE_MS);
    else {
      unanswered += 1;
      patienceMs = Math.min(patienceMs * 2, MAX_PATIENCE_MS);
    }
  }
  request.signal?.throwIfAborted();
  throw new MachineError('timeout', `the agent did not answer in time${last === undefined ? '' : `: ${last.message}`}`);
}

/** The preamble's bytes. */
export function encodePreamble(nonce: string, secret: string, restore: RestoreStep | undefined): Buffer {
  const step =
    restore === undefined
      ? null
      : {
          wallClockMs: Math.round(restore.wallClockMs),
          seed: restore.seed.toString('base64'),
          nextSecret: restore.nextSecret,
        };
  return withLength(PREAMBLE_MAGIC, { nonce, secret, restore: step });
}

export function encodeAnswer(nonce: string, generation: number, error: string | null): Buffer {
  return withLength(ANSWER_MAGIC, { nonce, generation, error });
}

/** Finds the answer with `nonce` in a stream that may begin with anything. Holds little more than one answer's bytes. */
export class AnswerFinder {
  readonly #nonce: string;
  #tail: Buffer = Buffer.alloc(0);
  #skipped = 0;
  #falseAnswers = 0;

  constructor(nonce: string) {
    this.#nonce = nonce;
  }

  /** The answer and what follows it, once it is there. @throws MachineError `protocol` when too much came without it */
  push(chunk: Buffer): { generation: number; error: string | null; rest: Buffer } | undefined {
    const bytes = Buffer.concat([this.#tail, chunk]);
    let keepFrom = Math.max(0, bytes.length - ANSWER_MAGIC.length + 1);
    for (let at = bytes.indexOf(ANSWER_MAGIC); at >= 0; at = bytes.indexOf(ANSWER_MAGIC, at + 1)) {
      const bodyAt = at + ANSWER_MAGIC.length + 4;
      const length = bytes.length >= bodyAt ? bytes.readUInt32BE(bodyAt - 4) : 0;
      if (length > MAX_ANSWER_BYTES) continue;
      if (bytes.length < bodyAt || bytes.length < bodyAt + length) {
        keepFrom = Math.min(keepFrom, at);
        continue;
      }
      const answer = parseAnswer(bytes.subarray(bodyAt, bodyAt + length));
      if (answer?.nonce === this.#nonce) return { ...answer, rest: Buffer.from(bytes.subarray(bodyAt + length)) };
      this.#falseAnswers += 1;
      if (this.#falseAnswers > MAX_FALSE_ANSWERS) throw violation('the guest answers what was not asked');
    }
    this.#skipped += keepFrom;
    this.#tail = Buffer.from(bytes.subarray(keepFrom));
    if (this.#skipped > MAX_SKIPPED_BYTES) throw new MachineError('protocol', 'the guest sends without answering');
    return undefined;
  }
}

function parseAnswer(body: Buffer): { nonce: string; generation: number; error: string | null } | undefined {
  let value: unknown;
  try {
    value = JSON.parse(body.toString('utf8'));
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { nonce, generation, error } = value as Record<string, unknown>;
  if (typeof nonce !== 'string' || typeof generation !== 'number') return undefined;
  if (error !== null && error !== undefined && typeof error !== 'string') return undefined;
  return { nonce, generation, error: error ?? null };
}

/** The last: its VMM stands still and has two waiting already. */
const NO_SOCKET: ReadonlySet<string> = new Set(['ENOENT', 'ECONNREFUSED', 'EAGAIN']);

/** The port's socket takes nobody yet. */
class NoSocket extends Error {}

/** One try. Errors that another try may mend are returned, the others thrown. */
function attemptSession(request: SessionRequest, secret: string, patienceMs: number): Promise<Session | Error> {
  const { promise, resolve, reject } = Promise.withResolvers<Session | Error>();
  const nonce = randomBytes(16).toString('hex');
  const finder = new AnswerFinder(nonce);
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  let receive: (chunk: Buffer) => boolean = (chunk) => {
    const answer = finder.push(chunk);
    if (answer === undefined) return true;
    receive = () => true;
    if (answer.error !== null) {
      fail(new MachineError('failed', `the guest could not be restored: ${quoted(answer.error)}`));
      return true;
    }
    if (answer.generation !== 1) {
      fail(new MachineError('unsupported', `the agent speaks generation ${answer.generation} of the protocol`));
      return true;
    }
    release();
    resolve({
      socket,
      generation: answer.generation,
      rest: answer.rest,
      onBytes: (handler) => {
        receive = handler;
      },
    });
    return true;
  };
  const onread = {
    buffer,
    callback: (length: number) => {
      try {
        return receive(buffer.subarray(0, length));
      } catch (error) {
        fail(error);
        return true;
      }
    },
  };
  // Node takes the stream's own options too, which its types do not tell.
  const options: IpcSocketConnectOpts & SocketConstructorOpts & { writableHighWaterMark: number } = {
    path: request.socketPath,
    onread,
    writableHighWaterMark: QUEUED_BYTES,
  };
  const socket = connect(options);
  const leftMs = request.deadlineAt - performance.now();
  const timer = setTimeout(
    () => retry(new Error(`no answer within ${Math.round(patienceMs)} ms`)),
    Math.max(1, Math.min(patienceMs, leftMs)),
  );
  const onAbort = () => fail(request.signal?.reason);
  const onError = (error: NodeJS.ErrnoException) =>
    retry(NO_SOCKET.has(error.code ?? '') ? new NoSocket(error.message) : error);
  const onClose = () => retry(new Error('the link was closed'));
  const release = () => {
    clearTimeout(timer);
    request.signal?.removeEventListener('abort', onAbort);
    socket.off('close', onClose).off('error', onError);
  };
  const drop = () => {
    release();
    socket.on('error', () => {});
    socket.destroy();
  };
  function retry(error: Error): void {
    drop();
    resolve(error);
  }
  function fail(error: unknown): void {
    drop();
    reject(error);
  }
  request.signal?.addEventListener('abort', onAbort, { once: true });
  socket.on('error', onError).on('close', onClose);
  socket.write(encodePreamble(nonce, secret, request.restore));
  return promise;
}

function withLength(magic: Buffer, value: object): Buffer {
  const body = Buffer.from(JSON.stringify(value));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  return Buffer.concat([magic, length, body]);
}

function pause(delayMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, delayMs));
}
