/**
 * TLS towards an app. Its certificate is not verified: the tunnel ends inside the very microVM, and nobody is in between.
 * GUESS: guest-tls
 */
import type { Duplex } from 'node:stream';
import { connect, type TLSSocket } from 'node:tls';
import { Shielded } from '../http2/shielded.ts';

/** What ALPN may agree on; an app that knows no ALPN speaks HTTP/1.1. */
export type Alpn = 'h2' | 'http/1.1';

/** Owns the tunnel, whatever becomes of it. @throws Error when the other side does not speak TLS, the signal's reason */
export function secure(tunnel: Duplex, protocols: readonly Alpn[], signal: AbortSignal): Promise<TLSSocket> {
  const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>();
  const shielded = new Shielded(tunnel);
  const socket = connect({
    socket: shielded,
    servername: 'localhost',
    ALPNProtocols: [...protocols],
    rejectUnauthorized: false,
    minVersion: 'TLSv1.2',
  });
  // Its own end must not make Node write another: over a stream that is no socket that may fail an assertion.
  socket.allowHalfOpen = true;
  const give = (error: Error) => {
    reject(error);
    socket.destroy();
    tunnel.destroy();
  };
  const onAbort = () => give(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  socket.on('error', give);
  socket.once('close', () => give(new Error('the app closed the connection')));
  socket.once('secureConnect', () => {
    signal.removeEventListener('abort', onAbort);
    resolve(socket);
  });
  void shielded.over.then(() => setImmediate(() => socket.destroy()));
  if (signal.aborted) onAbort();
  return promise;
}
