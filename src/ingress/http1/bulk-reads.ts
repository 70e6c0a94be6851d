/**
 * Reads what comes in bulk into one buffer that is used again. Node makes a new one for every TLS record it reads: allocating them
 * and having them collected costs a third of an upload, and V8 takes them for memory pressure and marks the whole heap.
 *
 * Node has this (`onread`) for connections that it opens, and no way to ask for it on accepted ones. So where a socket keeps its
 * buffer and callback is learnt from one that was made with both; a Node that keeps them otherwise reads as ever.
 */
import { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';

/** What Node decrypts at once: a TLS record. */
const BUFFER_BYTES = 16_384;

interface Slots {
  readonly buffer: symbol;
  readonly callback: symbol;
}

type Opened = Record<symbol, unknown> & { _handle?: { useUserBuffer?: (buffer: Buffer) => void } | null };

/**
 * From now on `take` gets what the socket reads instead of its `data` listeners, as long as it lives. The bytes are valid during the
 * call only; false: no more until the socket is resumed. Returns false when this Node can't.
 */
export function readBulk(socket: TLSSocket | Socket, take: (part: Buffer) => boolean): boolean {
  const opened = socket as unknown as Opened;
  slots ??= findSlots();
  if (slots === 'none' || typeof opened._handle?.useUserBuffer !== 'function') return false;
  const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  opened[slots.buffer] = buffer;
  opened[slots.callback] = (length: number) => take(buffer.subarray(0, length));
  opened._handle.useUserBuffer(buffer);
  return true;
}

let slots: Slots | 'none' | undefined;

function findSlots(): Slots | 'none' {
  const buffer = Buffer.alloc(1);
  const callback = () => true;
  const socket = new Socket({ onread: { buffer, callback } });
  const keyOf = (value: unknown) =>
    Object.getOwnPropertySymbols(socket).find((key) => (socket as unknown as Opened)[key] === value);
  const found = { buffer: keyOf(buffer), callback: keyOf(callback) };
  socket.destroy();
  return found.buffer === undefined || found.callback === undefined
    ? 'none'
    : { buffer: found.buffer, callback: found.callback };
}
