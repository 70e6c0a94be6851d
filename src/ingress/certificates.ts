/**
 * The certificate that endpoints show now: the operator's, read again when its files change, or the local authority's,
 * renewed in time also when the server never stops, and when the host's clock turns out to have been ahead. Connections that stand keep what they have.
 *
 * Session tickets are sealed by keys of the secure context in use; a new context each day bounds what one stolen key opens.
 */
import { X509Certificate } from 'node:crypto';
import { type Clock, type Ids, type Logger, messageOf } from '../lib/index.ts';
import { type EndpointTls, isEarly, openAuthority } from './authority.ts';
import { type CertificateFiles, readCertificate, stampOf } from './certificate-files.ts';

export interface CertificatesOptions {
  readonly tlsDir: string;
  readonly clock: Clock;
  readonly ids: Ids;
  readonly log: Logger;
  /** What names of endpoints end in; undefined in port mode. */
  readonly suffix: string | undefined;
  /** Undefined: the local authority makes one. */
  readonly files: CertificateFiles | undefined;
}

const POLL_MS = 5000;
const TICKET_KEYS_MS = 86_400_000;
const WARN_BELOW_MS = 14 * 86_400_000;

export class Certificates implements Disposable {
  readonly #options: CertificatesOptions;
  readonly #onNew = new Set<(tls: EndpointTls) => void>();
  #current: EndpointTls;
  #certificate: X509Certificate;
  #stamp: string;
  #newestAtMs: number;
  #timer: Disposable | undefined;
  #disposed = false;

  private constructor(options: CertificatesOptions, current: EndpointTls, stamp: string) {
    this.#options = options;
    this.#current = current;
    this.#certificate = new X509Certificate(current.certPem);
    this.#stamp = stamp;
    this.#newestAtMs = options.clock.monotonicMs();
    this.#lookLater();
  }

  /** @throws DomainError INVALID when the operator's certificate can't be used */
  static async open(options: CertificatesOptions): Promise<Certificates> {
    const { files } = options;
    // Before reading: what is written meanwhile is read again.
    const stamp = files === undefined ? '' : await stampOf(files);
    return new Certificates(options, await load(options), stamp);
  }

  get current(): EndpointTls {
    return this.#current;
  }

  /** Called with what new handshakes are to use. */
  onNew(listener: (tls: EndpointTls) => void): void {
    this.#onNew.add(listener);
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#timer?.[Symbol.dispose]();
  }

  #lookLater(): void {
    if (this.#disposed) return;
    this.#timer = this.#options.clock.after(POLL_MS, () => void this.#look().finally(() => this.#lookLater()));
  }

  async #look(): Promise<void> {
    const { files, clock, log } = this.#options;
    const stamp = files === undefined ? '' : await stampOf(files);
    const isChanged = stamp !== this.#stamp;
    const isMistimed = files === undefined && isEarly(this.#certificate, clock.now());
    if (!isChanged && !isMistimed && clock.monotonicMs() - this.#newestAtMs < TICKET_KEYS_MS) return;
    // What is refused is not read again until it changes.
    this.#stamp = stamp;
    this.#newestAtMs = clock.monotonicMs();
    try {
      this.#current = await load(this.#options);
      this.#certificate = new X509Certificate(this.#current.certPem);
      if (isChanged) log.info({}, 'the certificate of endpoints was read again');
    } catch (error) {
      log.error({ error: messageOf(error) }, 'the certificate of endpoints is wrong; the one before stays in use');
    }
    if (!this.#disposed) for (const listener of this.#onNew) listener(this.#current);
  }
}

async function load({ tlsDir, clock, ids, log, suffix, files }: CertificatesOptions): Promise<EndpointTls> {
  const names = suffix === undefined ? [] : [suffix, `*.${suffix}`];
  const local = await openAuthority(tlsDir, { clock, ids, names: files === undefined ? names : [] });
  if (files === undefined) return local;
  const name = suffix === undefined ? 'localhost' : `any.${suffix}`;
  const { certPem, keyPem, expiresAt } = await readCertificate(files, name, clock.now());
  if (expiresAt - clock.now() < WARN_BELOW_MS) {
    log.warn({ expiresAt: new Date(expiresAt).toISOString() }, 'the certificate of endpoints expires soon');
  }
  return { ...local, certPem, keyPem };
}
