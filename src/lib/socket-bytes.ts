/**
 * A byte stream inside a WebSocket: binary messages are bytes, the text `end` says that no more come from that side.
 *
 * Both ends of `rekindle tunnel` run this. Invariant: each direction goes at its reader's pace, and a stream that broke is
 * never taken for one that ended.
 */
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { RawData, WebSocket } from 'ws';

/** The WebSocket subprotocol that asks an endpoint for a byte stream into a port, instead of for the app. */
export const TUNNEL_PROTOCOL = 'rekindle.tunnel';
/** Of one message. */
export const MAX_MESSAGE_BYTES = 1024 * 1024;

export const CLOSE = { done: 1000, goingAway: 1001, protocol: 1002, failed: 1011 } as const;

const END = 'end';
/** What may wait for a slow peer before its source has to wait. */
const MAX_WAITING_BYTES = 256 * 1024;
/** A control frame has room for so much beside the code. */
const MAX_REASON_BYTES = 123;
const OPEN = 1;

/** Owns both from now on. */
export function carryBytes(socket: WebSocket, bytes: Duplex, onBytes: () => void = () => {}): void {
  let hasSentEnd = false;
  let hasGotEnd = false;
  const break_ = (code: number, reason: string) => {
    closeSocket(socket, code, reason);
    cut(bytes);
  };
  socket.on('message', (data: RawData, isBinary: boolean) => {
    if (socket.readyState !== OPEN) return;
    if (hasGotEnd) return break_(CLOSE.protocol, 'more after the end');
    if (isBinary) {
      onBytes();
      if (bytes.writable && !bytes.write(data)) socket.pause();
    } else if (String(data) === END) {
      hasGotEnd = true;
      bytes.end();
    } else break_(CLOSE.protocol, 'text that is not "end"');
  });
  bytes.on('drain', () => socket.resume());
  bytes.on('data', (chunk: Buffer) => {
    onBytes();
    sendPaced(socket, chunk, bytes);
  });
  bytes.once('end', () => {
    hasSentEnd = true;
    if (socket.readyState === OPEN) socket.send(END);
  });
  bytes.on('error', () => {});
  bytes.once('close', () => {
    if (hasSentEnd && hasGotEnd) closeSocket(socket, CLOSE.done, '');
    else closeSocket(socket, CLOSE.failed, 'the connection broke');
  });
  socket.on('error', () => {});
  socket.once('close', () => {
    if (!(hasSentEnd && hasGotEnd)) cut(bytes);
  });
}

/** Sends a chunk; when too much is waiting already, `source` pauses until most of it has gone. */
export function sendPaced(socket: WebSocket, chunk: Buffer, source: Duplex): void {
  if (socket.readyState !== OPEN) return;
  socket.send(chunk, { binary: true }, () => {
    if (source.isPaused() && socket.bufferedAmount < MAX_WAITING_BYTES / 2) source.resume();
  });
  if (socket.bufferedAmount > MAX_WAITING_BYTES) source.pause();
}

/** Begins the closing handshake, its answer read even where nothing else is any more. */
export function closeSocket(socket: WebSocket, code: number, reason: string): void {
  socket.resume();
  socket.close(code, Buffer.from(reason).subarray(0, MAX_REASON_BYTES).toString().replace(/�+$/, ''));
}

/** So that the other end sees a break, not an end. */
function cut(bytes: Duplex): void {
  if (bytes instanceof Socket) bytes.resetAndDestroy();
  else bytes.destroy();
}
