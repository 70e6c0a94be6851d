/**
 * Reading and writing a stream without its queue and events: a call per piece. For streams of which there are many and that move much; what
 * is not one of those is read as ever.
 */
import type { Duplex } from 'node:stream';

export interface Taker {
  /** The bytes are valid during the call only. False: no more before `resumeTaking`. */
  data(part: Buffer): boolean;
  /** The other side sends no more. */
  end(): void;
}

/** A stream that can be read so. Failure and closing are told by its events, as ever. */
export interface DirectRead {
  /** From now on `taker` gets what comes, and nobody reads the stream otherwise; before anything was read. */
  takeInto(taker: Taker): void;
  resumeTaking(): void;
  /** Writes bytes that are valid during the call only. False: enough until `drain`. */
  give(part: Buffer): boolean;
}

export function directRead(stream: Duplex): DirectRead | undefined {
  return 'takeInto' in stream && 'resumeTaking' in stream ? (stream as Duplex & DirectRead) : undefined;
}
