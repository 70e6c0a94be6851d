/**
 * Many streams over one byte channel, with credit per stream (spec/agent-protocol.md §2).
 *
 * Invariant: what the other side can make us hold is bounded by the credit we gave it. The channel itself is always read,
 * so one slow stream never stops the others.
 */
import type { Writable } from 'node:stream';
import { MachineError } from '../lib/index.ts';
import { FrameWriter } from './frame-writer.ts';
import {
  ACCEPT,
  CREDIT,
  END,
  encodeFrame,
  FrameDecoder,
  INITIAL_CREDIT_BYTES,
  MAX_PAYLOAD_BYTES,
  OPEN,
  PING,
  PONG,
  RESET,
  type Side,
  violation,
} from './frames.ts';
import { BLOCK_BYTES, type MuxOutput, MuxStream } from './mux-stream.ts';

/** The other side stopped reading altogether while we kept opening streams. */
const MAX_QUEUED_BYTES = 16 * 1024 * 1024;
const MAX_STREAMS = 4096;
/** As many as the credit of one stream can fill. */
const SPARE_BLOCKS = INITIAL_CREDIT_BYTES / BLOCK_BYTES;
/** All that streams hold for readers that do not read, beside what each reader was handed. */
export const MAX_HELD_BYTES = 64 * 1024 * 1024;
/**
 * Frames for a stream that is closed here may have been under way: as much as it had credit for, in frames however small.
 * What comes beyond that for all streams together was not.
 */
const STRAY_FRAME_COST = 16;
const STRAY_COST_PER_STREAM = 1024 * 1024;
const MAX_STRAY_COST = 64 * STRAY_COST_PER_STREAM;

export interface MuxOptions {
  readonly side: Side;
  /** Agent side only: the host opened a stream. */
  onOpen?(stream: MuxStream, request: Buffer): void;
}

export class Mux implements MuxOutput {
  readonly #out: Writable;
  readonly #writer: FrameWriter;
  readonly #decoder: FrameDecoder;
  readonly #onOpen: MuxOptions['onOpen'];
  readonly #streams = new Map<number, MuxStream>();
  readonly #waiting = new Set<MuxStream>();
  readonly #spareBlocks: Buffer[] = [];
  readonly #pings: { sentAt: number; resolve(ms: number): void; reject(error: Error): void }[] = [];
  readonly #ended = Promise.withResolvers<Error>();
  #error: Error | undefined;
  #lastStream = 0;
  #heldBytes = 0;
  #strayAllowance = 0;
  /** performance.now() of the last bytes received. */
  heardAt = performance.now();
  /** The channel is not read for the moment, by choice. */
  isHeldBack = false;

  constructor(out: Writable, options: MuxOptions) {
    this.#out = out;
    this.#writer = new FrameWriter(out);
    this.#onOpen = options.onOpen;
    this.#decoder = new FrameDecoder(options.side, {
      data: (stream, part) => this.#data(stream, part),
      frame: (type, stream, payload) => this.#frame(type, stream, payload),
    });
    out.on('drain', () => this.#drained());
  }

  /** Resolves with the reason once the session is over. */
  get ended(): Promise<Error> {
    return this.#ended.promise;
  }

  get isOver(): boolean {
    return this.#error !== undefined;
  }

  /** Streams that wait for the other side to accept them. */
  get isWaiting(): boolean {
    for (const stream of this.#streams.values()) if (!stream.isAccepted) return true;
    return this.#pings.length > 0;
  }

  /** For how long the oldest ping has no answer; 0 when none waits. */
  get unansweredMs(): number {
    const [oldest] = this.#pings;
    return oldest === undefined ? 0 : performance.now() - oldest.sentAt;
  }

  /** Held for readers that do not read. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** Bytes of the channel; the buffer may be reused after the call. A broken rule ends the session. Returns how many frames began. */
  receive(chunk: Buffer): number {
    if (this.#error !== undefined) return 0;
    const before = this.#decoder.frames;
    this.heardAt = performance.now();
    try {
      this.#decoder.push(chunk);
    } catch (error) {
      this.fail(error instanceof Error ? error : new Error(String(error)));
    }
    return this.#decoder.frames - before;
  }

  /** Opens a stream; await its `accepted` before relying on it. @throws MachineError when the session is over or full */
  open(request: object): MuxStream {
    if (this.#error !== undefined) throw this.#error;
    if (this.#streams.size >= MAX_STREAMS) throw new MachineError('failed', 'too many streams on one agent link');
    const payload = Buffer.from(JSON.stringify(request));
    if (payload.length > MAX_PAYLOAD_BYTES) throw new MachineError('failed', 'a request to the agent is over 64 KiB');
    this.#lastStream += 1;
    const stream = new MuxStream(this.#lastStream, this);
    this.#streams.set(stream.id, stream);
    this.#send(encodeFrame(OPEN, stream.id, payload));
    return stream;
  }

  /** Round trip to the agent, in milliseconds. */
  ping(): Promise<number> {
    if (this.#error !== undefined) return Promise.reject(this.#error);
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    this.#pings.push({ sentAt: performance.now(), resolve, reject });
    this.#send(encodeFrame(PING, 0, Buffer.alloc(8)));
    return promise;
  }

  /** Ends the session: every stream and call fails with `error`. */
  fail(error: Error): void {
    if (this.#error !== undefined) return;
    this.#error = error;
    this.#waiting.clear();
    for (const stream of this.#streams.values()) stream.abandon(error);
    this.#streams.clear();
    for (const ping of this.#pings.splice(0)) ping.reject(error);
    this.#ended.resolve(error);
  }

  sendData(stream: MuxStream, bytes: Buffer): void {
    if (this.#error !== undefined) return;
    this.#writer.data(stream.id, bytes);
    this.#checkQueue();
  }

  sendControl(frame: Buffer): void {
    if (this.#error === undefined) this.#send(frame);
  }

  get isWritable(): boolean {
    return this.#error === undefined && !this.#out.writableNeedDrain;
  }

  waitWritable(stream: MuxStream): void {
    this.#waiting.add(stream);
  }

  forget(stream: MuxStream): void {
    this.#waiting.delete(stream);
    if (!this.#streams.delete(stream.id)) return;
    this.#strayAllowance = Math.min(MAX_STRAY_COST, this.#strayAllowance + STRAY_COST_PER_STREAM);
  }

  hold(bytes: number): boolean {
    this.#heldBytes += bytes;
    return this.#heldBytes <= MAX_HELD_BYTES;
  }

  takeBlock(): Buffer {
    return this.#spareBlocks.pop() ?? Buffer.allocUnsafeSlow(BLOCK_BYTES);
  }

  spareBlock(block: Buffer): void {
    if (this.#spareBlocks.length < SPARE_BLOCKS) this.#spareBlocks.push(block);
  }

  #data(id: number, part: Buffer): void {
    const stream = this.#streams.get(id);
    if (stream === undefined) this.#stray(id, part.length);
    else stream.receiveData(part);
  }

  #frame(type: number, id: number, payload: Buffer): void {
    if (type === PONG) this.#ponged();
    else if (type === PING) this.#send(encodeFrame(PONG, 0, payload));
    else if (type === OPEN) this.#opened(id, payload);
    else {
      const stream = this.#streams.get(id);
      // A stream we closed may still have frames under way; one we never opened can't.
      if (stream === undefined) this.#stray(id, payload.length);
      else if (type === ACCEPT) stream.receiveAccept();
      else if (type === CREDIT) stream.receiveCredit(payload.readUInt32BE(0));
      else if (type === END) stream.receiveEnd();
      else if (type === RESET) stream.receiveReset(payload.toString('utf8'));
    }
  }

  #ponged(): void {
    const ping = this.#pings.shift();
    if (ping === undefined) throw violation('an answer to no ping');
    ping.resolve(performance.now() - ping.sentAt);
  }

  #opened(id: number, payload: Buffer): void {
    if (id <= this.#lastStream) throw violation('a stream number was used twice');
    this.#lastStream = id;
    const stream = new MuxStream(id, this);
    this.#streams.set(id, stream);
    this.#onOpen?.(stream, payload);
  }

  #stray(id: number, bytes: number): void {
    if (id > this.#lastStream) throw violation(`a frame for stream ${id}, which was never opened`);
    this.#strayAllowance -= bytes + STRAY_FRAME_COST;
    if (this.#strayAllowance < 0) throw violation('frames for closed streams without end');
  }

  #send(frame: Buffer): void {
    this.#writer.frame(frame);
    this.#checkQueue();
  }

  #checkQueue(): void {
    if (this.#writer.queuedBytes > MAX_QUEUED_BYTES) this.fail(violation('the guest does not read'));
  }

  #drained(): void {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const stream of waiting) stream.flush();
  }
}
