/** How HTTP/2 says that a stream broke off; carried through the seam so that the other side can be told the same. */
import { constants, type Http2Stream } from 'node:http2';

export class StreamReset extends Error {
  /** RFC 9113 §7. */
  readonly code: number;

  constructor(code: number) {
    super(`the stream was reset with ${NAMES[code] ?? `code ${code}`}`);
    this.code = code;
  }
}

/**
 * Breaks a stream off. Node by itself ends the stream first, so that what was sent would look whole; this leaves the end out.
 * `code` must be an error: only then Node lets go of a stream that has not ended.
 */
export function reset(stream: Http2Stream, code: number): void {
  if (stream.closed || stream.destroyed) return;
  stream.end = () => stream;
  stream.close(code);
}

/** What a client is told when an exchange failed. */
export function resetCodeOf(error: Error): number {
  return error instanceof StreamReset && error.code !== constants.NGHTTP2_NO_ERROR
    ? error.code
    : constants.NGHTTP2_INTERNAL_ERROR;
}

const NAMES = [
  'NO_ERROR',
  'PROTOCOL_ERROR',
  'INTERNAL_ERROR',
  'FLOW_CONTROL_ERROR',
  'SETTINGS_TIMEOUT',
  'STREAM_CLOSED',
  'FRAME_SIZE_ERROR',
  'REFUSED_STREAM',
  'CANCEL',
  'COMPRESSION_ERROR',
  'CONNECT_ERROR',
  'ENHANCE_YOUR_CALM',
  'INADEQUATE_SECURITY',
  'HTTP_1_1_REQUIRED',
];
