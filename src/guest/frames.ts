/**
 * Frame codec of the agent link (spec/agent-protocol.md §2). Pure: bytes in, frames out.
 *
 * DATA is handed on as it arrives and never gathered, every other payload is small and bounded by its type, so a decoder
 * holds at most a kilobyte whatever the other side sends (64 KiB for OPEN, which only an agent takes).
 */
import { MachineError } from '../lib/index.ts';

export const OPEN = 1;
export const ACCEPT = 2;
export const DATA = 3;
export const CREDIT = 4;
export const END = 5;
export const RESET = 6;
export const PING = 7;
export const PONG = 8;

export const HEADER_BYTES = 12;
export const MAX_PAYLOAD_BYTES = 65_536;
/** DATA either side may send on a new stream before it needs CREDIT. */
export const INITIAL_CREDIT_BYTES = 262_144;

export type Side = 'host' | 'agent';

/** Smallest and largest payload of each type a side may receive; a type that is missing must not arrive there. */
const PAYLOADS: Record<Side, readonly (readonly [number, number] | undefined)[]> = {
  //     0          OPEN                  ACCEPT     DATA                    CREDIT     END        RESET         PING       PONG
  host: [undefined, undefined, [0, 0], [1, MAX_PAYLOAD_BYTES], [4, 4], [0, 0], [0, 1024], undefined, [8, 8]],
  agent: [
    undefined,
    [0, MAX_PAYLOAD_BYTES],
    undefined,
    [1, MAX_PAYLOAD_BYTES],
    [4, 4],
    [0, 0],
    [0, 1024],
    [8, 8],
    undefined,
  ],
};

export interface FrameSink {
  /** Part of a DATA frame. The view is valid during the call only. */
  data(stream: number, part: Buffer): void;
  /** Any other frame, whole. The view is valid during the call only. */
  frame(type: number, stream: number, payload: Buffer): void;
}

const NOTHING = Buffer.alloc(0);

export class FrameDecoder {
  readonly #payloads: readonly (readonly [number, number] | undefined)[];
  readonly #sink: FrameSink;
  readonly #header = Buffer.alloc(HEADER_BYTES);
  #headerLength = 0;
  #type = 0;
  #stream = 0;
  /** Payload bytes of the current frame still to come. */
  #left = 0;
  #parts: Buffer[] = [];
  /** Frames begun so far. */
  frames = 0;

  /** @param side whose decoder this is: the host's takes what an agent sends. */
  constructor(side: Side, sink: FrameSink) {
    this.#payloads = PAYLOADS[side];
    this.#sink = sink;
  }

  /** @throws MachineError `protocol` at the first byte that breaks the rules; the decoder is of no use afterwards. */
  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#headerLength < HEADER_BYTES) {
        const end = Math.min(chunk.length, at + HEADER_BYTES - this.#headerLength);
        chunk.copy(this.#header, this.#headerLength, at, end);
        this.#headerLength += end - at;
        at = end;
        if (this.#headerLength < HEADER_BYTES) return;
        this.#begin();
      } else {
        const end = Math.min(chunk.length, at + this.#left);
        this.#payload(chunk.subarray(at, end));
        at = end;
      }
    }
  }

  #begin(): void {
    const header = this.#header;
    const type = header[0] ?? 0;
    const length = header.readUInt32BE(8);
    const limits = this.#payloads[type];
    if (limits === undefined) throw violation(`frame type ${type} is not allowed here`);
    if (header[1] !== 0 || header[2] !== 0 || header[3] !== 0)
      throw violation('reserved bytes of a frame are not zero');
    if (length < limits[0] || length > limits[1]) throw violation(`a frame of type ${type} has ${length} bytes`);
    this.frames += 1;
    this.#type = type;
    this.#stream = header.readUInt32BE(4);
    if ((this.#stream === 0) !== (type === PING || type === PONG))
      throw violation(`frame type ${type} on stream ${this.#stream}`);
    this.#left = length;
    if (length > 0) return;
    this.#headerLength = 0;
    this.#sink.frame(type, this.#stream, NOTHING);
  }

  #payload(part: Buffer): void {
    this.#left -= part.length;
    const isLast = this.#left === 0;
    if (isLast) this.#headerLength = 0;
    if (this.#type === DATA) this.#sink.data(this.#stream, part);
    else if (!isLast) this.#parts.push(Buffer.from(part));
    else {
      const whole = this.#parts.length === 0 ? part : Buffer.concat([...this.#parts, part]);
      this.#parts = [];
      this.#sink.frame(this.#type, this.#stream, whole);
    }
  }
}

/** A frame without payload, or with one small enough to be copied. */
export function encodeFrame(type: number, stream: number, payload: Buffer = NOTHING): Buffer {
  const frame = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  writeHeader(frame, 0, type, stream, payload.length);
  payload.copy(frame, HEADER_BYTES);
  return frame;
}

export function encodeHeader(type: number, stream: number, length: number): Buffer {
  const header = Buffer.allocUnsafe(HEADER_BYTES);
  writeHeader(header, 0, type, stream, length);
  return header;
}

export function encodeCredit(stream: number, bytes: number): Buffer {
  const frame = Buffer.allocUnsafe(HEADER_BYTES + 4);
  writeHeader(frame, 0, CREDIT, stream, 4);
  frame.writeUInt32BE(bytes, HEADER_BYTES);
  return frame;
}

export function writeHeader(to: Buffer, at: number, type: number, stream: number, length: number): void {
  to.writeUInt32BE(type << 24, at);
  to.writeUInt32BE(stream, at + 4);
  to.writeUInt32BE(length, at + 8);
}

/** Text of the guest's for a message or a log: cut, and on one line. */
export function quoted(text: string, length = 500): string {
  return text
    .slice(0, length)
    .replace(/\p{Cc}+/gu, ' ')
    .trim();
}

/** The other side broke the protocol. */
export function violation(what: string): MachineError {
  return new MachineError('protocol', `agent link: ${what}`);
}
