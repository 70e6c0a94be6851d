/**
 * Joins two byte streams, each at the pace of the other, until both ended.
 *
 * Invariant: what one side sent before it ended reaches the other; a side that broke takes the other with it. Nothing is
 * kept for a direction in which nothing moves: thousands of silent pairs are the usual case.
 */
import type { Duplex } from 'node:stream';
import type { Clock } from '../lib/index.ts';

/** Once one side has ended, the other may send its last words for so long without a pause. */
const LINGER_MS = 30_000;

export interface SpliceOptions {
  /** What was received from each side already. */
  readonly early: { readonly client: Buffer; readonly tunnel: Buffer };
  readonly clock: Clock;
  onBytes(): void;
}

export function splice(client: Duplex, tunnel: Duplex, { early, clock, onBytes }: SpliceOptions): void {
  let linger: Disposable | undefined;
  const cut = () => {
    linger?.[Symbol.dispose]();
    client.destroy();
    tunnel.destroy();
  };
  const lingerFromNow = () => {
    linger?.[Symbol.dispose]();
    linger = clock.after(LINGER_MS, cut);
  };
  if (client.destroyed || tunnel.destroyed) {
    cut();
    return;
  }
  join(client, tunnel);
  join(tunnel, client);
  if (early.tunnel.length > 0) client.write(early.tunnel);
  if (early.client.length > 0) tunnel.write(early.client);
  // Whoever handed them over may have paused them.
  client.resume();
  tunnel.resume();

  function join(from: Duplex, to: Duplex): void {
    from.on('data', (chunk: Buffer) => {
      // Bytes for a side that has gone are thrown away and prolong nothing.
      if (to.destroyed) return;
      onBytes();
      if (linger !== undefined) lingerFromNow();
      if (!to.write(chunk)) from.pause();
    });
    to.on('drain', () => from.resume());
    from.on('end', () => {
      to.end();
      lingerFromNow();
    });
    from.on('error', ignore);
    from.on('close', () => {
      if (!from.readableEnded || to.destroyed) {
        cut();
        return;
      }
      // It ended in order: what it said last is on its way to the other side, which has until the linger's end to close.
      to.resume();
    });
  }
}

/** A side that breaks closes, which is what counts. */
function ignore(): void {}
