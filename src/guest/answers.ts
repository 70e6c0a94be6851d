/** Reads what the agent answers. Every size and shape is bounded here: the other side of the link is not trusted. */
import type { Readable } from 'node:stream';
import { MachineError } from '../lib/index.ts';
import { ByteQueue } from './byte-queue.ts';
import { violation } from './frames.ts';
import type { AppStatus, GuestLog } from './link.ts';

const MAX_ANSWER_BYTES = 65_536;
/** A line of 16 KiB, every byte of it escaped, and its members. */
const MAX_LOG_LINE_BYTES = 6 * 16_384 + 1024;
const EXEC_HEADER_BYTES = 5;
const MAX_EXEC_RECORD_BYTES = 1024 * 1024;

type Fields = Readonly<Record<string, unknown>>;

/** The one JSON object of a call. */
export async function readAnswer(stream: Readable): Promise<Fields> {
  const parts: Buffer[] = [];
  let length = 0;
  for await (const part of stream as AsyncIterable<Buffer>) {
    length += part.length;
    if (length > MAX_ANSWER_BYTES) throw violation('an answer is over 64 KiB');
    parts.push(part);
  }
  return parseObject(Buffer.concat(parts).toString('utf8'));
}

export function integerField(fields: Fields, name: string, limits: { min: number; max: number }): number {
  const value = fields[name];
  if (typeof value !== 'number' || !Number.isInteger(value) || value < limits.min || value > limits.max) {
    throw violation(`the answer's ${name} is not a number between ${limits.min} and ${limits.max}`);
  }
  return value;
}

export function booleanField(fields: Fields, name: string): boolean {
  const value = fields[name];
  if (typeof value !== 'boolean') throw violation(`the answer's ${name} is not a boolean`);
  return value;
}

export function bytesField(fields: Fields, name: string, length: number): Buffer {
  const value = fields[name];
  const bytes = typeof value === 'string' ? Buffer.from(value, 'base64') : undefined;
  if (bytes?.length !== length) throw violation(`the answer's ${name} is not ${length} bytes in base64`);
  return bytes;
}

export function exitCodeField(fields: Fields): number {
  return integerField(fields, 'exitCode', { min: -1, max: 0xffff_ffff });
}

export function statusOf(fields: Fields): AppStatus {
  if (fields.state === 'running') return { state: 'running' };
  if (fields.state === 'exited') return { state: 'exited', exitCode: exitCodeField(fields) };
  if (fields.state === 'none') throw new MachineError('failed', 'no app was started in the guest');
  throw violation("the answer's state is unknown");
}

/** Lines of the log stream. After each piece `rest` may make the sender wait. */
export async function* readLog(
  stream: Readable,
  rest: (bytes: number) => Promise<void> | undefined = () => undefined,
): AsyncGenerator<GuestLog> {
  const pending = new ByteQueue();
  for await (const part of stream as AsyncIterable<Buffer>) {
    let at = 0;
    for (let end = part.indexOf(10); end >= 0; end = part.indexOf(10, at)) {
      const tail = part.subarray(at, end);
      at = end + 1;
      if (pending.length === 0) yield logLine(tail);
      else {
        pending.push(tail);
        yield logLine(pending.take(pending.length));
      }
    }
    pending.push(part.subarray(at));
    if (pending.length > MAX_LOG_LINE_BYTES) throw violation('a log line is too long');
    await rest(part.length);
  }
}

/** Records of an exec stream; returns the exit code. */
export async function readExec(stream: Readable, onOutput: (chunk: Buffer) => void): Promise<{ exitCode: number }> {
  const pending = new ByteQueue();
  let header: { kind: number; length: number } | undefined;
  let exitCode: number | undefined;
  for await (const part of stream as AsyncIterable<Buffer>) {
    pending.push(part);
    for (;;) {
      if (header === undefined) {
        if (pending.length < EXEC_HEADER_BYTES) break;
        const bytes = pending.take(EXEC_HEADER_BYTES);
        header = { kind: bytes[0] ?? 0, length: bytes.readUInt32BE(1) };
      }
      const { kind, length } = header;
      if (length > MAX_EXEC_RECORD_BYTES) throw violation('an exec record is over 1 MiB');
      if (pending.length < length) break;
      const body = pending.take(length);
      header = undefined;
      if (kind === 1) for (let at = 0; at < length; at += 65_536) onOutput(Buffer.from(body.subarray(at, at + 65_536)));
      else if (kind === 2 && length === 4 && exitCode === undefined) exitCode = body.readInt32BE(0);
      else throw violation('an exec record has an unknown kind');
    }
  }
  if (exitCode === undefined || header !== undefined || pending.length > 0) {
    throw violation('an exec stream ended without an exit code');
  }
  return { exitCode };
}

function logLine(bytes: Buffer): GuestLog {
  if (bytes.length > MAX_LOG_LINE_BYTES) throw violation('a log line is too long');
  const fields = parseObject(bytes.toString('utf8'));
  const cursor = integerField(fields, 'c', { min: 0, max: Number.MAX_SAFE_INTEGER });
  const at = integerField(fields, 't', { min: 0, max: 253_402_300_800_000 });
  const stream = integerField(fields, 's', { min: 1, max: 2 }) === 1 ? 'stdout' : 'stderr';
  if (typeof fields.d !== 'string') throw violation('a log line has no text');
  return { cursor, at, stream, text: fields.d };
}

function parseObject(text: string): Fields {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw violation('an answer is not JSON');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw violation('an answer is no object');
  return value as Fields;
}
