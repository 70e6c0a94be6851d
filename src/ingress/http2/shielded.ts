/**
 * A tunnel as Node's HTTP/2 and TLS can bear it. Over a stream that is no socket they fail an internal assertion (and with it
 * the process) when the other side ends first and there is still something to write, which a guest can bring about at will.
 *
 * Invariant: the stream handed to Node ends only by being destroyed; what becomes of the tunnel is told by `over`.
 */
import { Duplex } from 'node:stream';

export class Shielded extends Duplex {
  /** Resolves when nothing more comes from the tunnel; all that came was handed on before. */
  readonly over: Promise<void>;
  readonly #tunnel: Duplex;

  constructor(tunnel: Duplex) {
    super();
    this.#tunnel = tunnel;
    const over = Promise.withResolvers<void>();
    this.over = over.promise;
    tunnel.on('data', (chunk: Buffer) => {
      if (!this.push(chunk)) tunnel.pause();
    });
    tunnel.on('error', () => {});
    tunnel.once('end', () => over.resolve());
    tunnel.once('close', () => over.resolve());
    if (tunnel.destroyed) over.resolve();
  }

  override _read(): void {
    this.#tunnel.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    // A tunnel that is gone takes anything: `over` tells, an error here would only be told twice.
    if (!this.#tunnel.writable || this.#tunnel.write(chunk)) {
      done();
      return;
    }
    const go = () => {
      this.#tunnel.off('drain', go).off('close', go);
      done();
    };
    this.#tunnel.on('drain', go).on('close', go);
  }

  override _final(done: () => void): void {
    this.#tunnel.end();
    done();
  }

  override _destroy(_error: Error | null, done: () => void): void {
    this.#tunnel.destroy();
    done();
  }
}
