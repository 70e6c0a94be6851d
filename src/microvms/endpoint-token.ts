/**
 * Endpoint tokens: JWE compact, direct A256GCM with a key of this server, opaque to clients.
 *
 * Source: recorded tokens (protected header members in the order kid, alg, enc; kid a UUID; second part empty). The
 * claims are encrypted on the service, so theirs are unknown and ours are our own.
 */
import { hash } from 'node:crypto';
import { CompactEncrypt, compactDecrypt } from 'jose';
import { type Clock, DomainError, type Ids, type Logger } from '../lib/index.ts';
import type { Store } from '../store/index.ts';
import { openTokenKeys, protectedHeader, type TokenKeys } from './token-keys.ts';
import type { PortSpecification, TokenCheck, TokenClaims } from './types.ts';

/** Source: recorded refusal at 61. */
const MAX_MINUTES = 60;
/** A retired key is kept until the last token made with it has expired, and a minute more. */
const KEEP_KEY_MS = (MAX_MINUTES + 1) * 60_000;
/** Verified tokens kept, so that a keep-alive client's next request needs no decryption. */
const CACHED = 2048;

/** One more than a token has: what is longer is none. */
const MAX_PARTS = 6;

interface Payload {
  readonly microvmId: string;
  readonly kind: 'app' | 'shell';
  readonly ports: TokenClaims['ports'];
  /** Seconds of elapsed time (steady-clock.ts). */
  readonly exp: number;
}

export class EndpointTokens implements Disposable {
  readonly #clock: Pick<Clock, 'now'>;
  readonly #keys: TokenKeys;
  /** By digest, so that how long a look-up takes says nothing about the tokens that are kept. */
  readonly #verified = new Map<string, TokenClaims>();

  constructor(options: { clock: Pick<Clock, 'now'>; keys: TokenKeys }) {
    this.#clock = options.clock;
    this.#keys = options.keys;
  }

  /** Begins to rotate keys by itself. Never rejects. */
  start(): Promise<void> {
    return this.#keys.start();
  }

  /** From now on tokens are made with a new key, whose id is answered; issued ones stay good. */
  rotateKey(): Promise<string> {
    return this.#keys.rotate();
  }

  [Symbol.dispose](): void {
    this.#keys[Symbol.dispose]();
  }

  /** @throws DomainError `INVALID` for a lifetime the service refuses */
  async create(claims: Omit<TokenClaims, 'expiresAt'>, minutes: number): Promise<string> {
    if (minutes > MAX_MINUTES) {
      throw new DomainError('INVALID', `ExpirationMinutes ${minutes} exceeded max allowed of ${MAX_MINUTES}.`);
    }
    const exp = Math.floor(this.#clock.now() / 1000) + minutes * 60;
    const payload: Payload = { ...claims, exp };
    const { kid, key } = this.#keys.current;
    return new CompactEncrypt(new TextEncoder().encode(JSON.stringify(payload)))
      .setProtectedHeader(protectedHeader(kid))
      .encrypt(key);
  }

  /** Whether it is good now; a request or stream that began with it is never asked again. */
  async verify(token: string): Promise<TokenCheck> {
    const digest = hash('sha256', token, 'base64');
    const claims = this.#verified.get(digest) ?? (await this.#decrypt(token, digest));
    if (claims === undefined) return { kind: 'unreadable' };
    if (claims.expiresAt > this.#clock.now()) return { kind: 'valid', claims };
    this.#verified.delete(digest);
    return { kind: 'expired', claims };
  }

  /**
   * The header must be one of ours to the byte: what a forger writes there (`alg`, `enc`, `zip`, `crit`, another order) is
   * never interpreted. The authentication tag is compared in constant time by the cipher.
   */
  async #decrypt(token: string, digest: string): Promise<TokenClaims | undefined> {
    const [header = '', ...parts] = token.split('.', MAX_PARTS);
    const known = this.#keys.byHeader(header);
    if (known === undefined || !parts.every(isCanonical)) return undefined;
    try {
      const { plaintext } = await compactDecrypt(token, known.key, {
        keyManagementAlgorithms: ['dir'],
        contentEncryptionAlgorithms: ['A256GCM'],
      });
      const { microvmId, kind, ports, exp } = JSON.parse(new TextDecoder().decode(plaintext)) as Payload;
      const claims: TokenClaims = { microvmId, kind, ports, expiresAt: exp * 1000 };
      const [oldest] = this.#verified.keys();
      if (this.#verified.size >= CACHED && oldest !== undefined) this.#verified.delete(oldest);
      this.#verified.set(digest, claims);
      return claims;
    } catch {
      return undefined;
    }
  }
}

/** Base64url as our encoder writes it: decoders forgive blanks, padding and stray bits, so one token would have many spellings. */
function isCanonical(part: string): boolean {
  return Buffer.from(part, 'base64url').toString('base64url') === part;
}

export async function openEndpointTokens(options: {
  readonly store: Store;
  readonly elapsed: Pick<Clock, 'now'>;
  readonly clock: Clock;
  readonly ids: Ids;
  readonly log: Logger;
}): Promise<EndpointTokens> {
  const keys = await openTokenKeys({ ...options, keepMs: KEEP_KEY_MS });
  return new EndpointTokens({ clock: options.elapsed, keys });
}

/** @throws DomainError `INVALID` for a range that ends before it starts */
export function portsOf(allowed: readonly PortSpecification[]): TokenClaims['ports'] {
  if (allowed.some((spec) => 'allPorts' in spec)) return 'all';
  return allowed.map((spec): readonly [number, number] => {
    if ('port' in spec) return [spec.port, spec.port];
    if (!('range' in spec)) return [1, 65535];
    const { startPort, endPort } = spec.range;
    // GUESS: port-range-order
    if (endPort < startPort)
      throw new DomainError('INVALID', `Port range ${startPort}-${endPort} ends before it starts.`);
    return [startPort, endPort];
  });
}
