/** One HTTP/1.1 request over a byte stream that somebody else opened. The stream is used up by it. */
import { request as httpRequest } from 'node:http';
import type { Duplex } from 'node:stream';

export interface StreamRequest {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  /** The `Host` header. */
  readonly host: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly signal: AbortSignal;
}

/** Of answers before the answer (`100 Continue` and the like): more than any server sends, no matter how patient the caller is. */
const MAX_INTERIM = 16;
/** An answer's head. */
const MAX_HEAD_BYTES = 16_384;

/** Resolves with the status once the answer's head is there; its body is thrown away. Rejects when the stream breaks or the signal aborts. */
export async function requestOverStream(stream: Duplex, options: StreamRequest): Promise<{ status: number }> {
  const { promise, resolve, reject } = Promise.withResolvers<{ status: number }>();
  const body = options.body ?? '';
  const request = httpRequest({
    createConnection: () => stream,
    method: options.method,
    path: options.path,
    signal: options.signal,
    maxHeaderSize: MAX_HEAD_BYTES,
    headers: {
      ...options.headers,
      host: options.host,
      connection: 'close',
      ...(options.method === 'POST' && { 'content-length': String(Buffer.byteLength(body)) }),
    },
  });
  request.once('response', (response) => resolve({ status: response.statusCode ?? 0 }));
  request.once('error', reject);
  let interim = 0;
  request.on('information', () => {
    interim += 1;
    if (interim > MAX_INTERIM) request.destroy(new Error('the app sends interim answers without end'));
  });
  // 101 although nobody asked for it; Node would wait for somebody who takes the stream over.
  request.once('upgrade', (response) => resolve({ status: response.statusCode ?? 0 }));
  request.once('close', () => reject(new Error('the connection was closed without an answer')));
  request.end(body);
  try {
    return await promise;
  } finally {
    stream.on('error', () => {}); // the answer's head was all we wanted; what breaks later is nobody's concern
    request.destroy();
    stream.destroy();
  }
}
