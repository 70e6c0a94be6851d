import type { IncomingMessage } from 'node:http';
import { WireError } from './wire-error.ts';

/** The largest legal requests (fifty environment variables of 4 KiB) stay far below. GUESS: request-body-limit */
const MAX_BODY_BYTES = 1024 * 1024;
const NOTHING = Buffer.alloc(0);

/**
 * The whole body, never more than 1 MiB of it in memory. The server's request timeout bounds the wait.
 * @throws WireError 413 when it is larger
 */
export async function readBody(request: IncomingMessage): Promise<Buffer> {
  const length = request.headers['content-length'];
  // HTTP/1.1: neither of the two means that there is no body. Iterating to find that out costs a fifth of a whole request.
  if ((length === undefined || length === '0') && request.headers['transfer-encoding'] === undefined) return NOTHING;
  if (Number(length ?? 0) > MAX_BODY_BYTES) throw tooLarge();
  const chunks: Buffer[] = [];
  let size = 0;
  // Leaving the loop early must not destroy the connection: the refusal still has to go out on it.
  const stream: AsyncIterable<Buffer> = request.iterator({ destroyOnReturn: false });
  for await (const chunk of stream) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw tooLarge();
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function tooLarge(): WireError {
  const message = `Request must be smaller than ${MAX_BODY_BYTES} bytes.`;
  // The rest of the body is not read, so the connection cannot carry another request.
  return new WireError('RequestEntityTooLargeException', 413, { message }, { headers: { Connection: 'close' } });
}
