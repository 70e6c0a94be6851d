/**
 * Endpoint tokens: JWE compact, direct A256GCM with a key of this server, opaque to clients.
 *
 * Source: recorded tokens (protected header members in the order kid, alg, enc; kid a UUID; second part empty). The
 * claims are encrypted on the service, so theirs are unknown and ours are our own.
 */
import { CompactEncrypt, compactDecrypt } from 'jose';
import { type Clock, DomainError } from '../lib/index.ts';
import type { Store } from '../store/index.ts';
import type { PortSpecification, TokenCheck, TokenClaims } from './types.ts';

/** Source: recorded refusal at 61. */
const MAX_MINUTES = 60;
/** Verified tokens kept, so that a keep-alive client's next request needs no decryption. */
const CACHED = 2048;

interface Payload {
  readonly microvmId: string;
  readonly kind: 'app' | 'shell';
  readonly ports: TokenClaims['ports'];
  /** Seconds of elapsed time (steady-clock.ts). */
  readonly exp: number;
}

export class EndpointTokens {
  readonly #clock: Pick<Clock, 'now'>;
  readonly #kid: string;
  readonly #key: CryptoKey;
  readonly #verified = new Map<string, TokenClaims>();

  constructor(options: { clock: Pick<Clock, 'now'>; kid: string; key: CryptoKey }) {
    this.#clock = options.clock;
    this.#kid = options.kid;
    this.#key = options.key;
  }

  /** @throws DomainError `INVALID` for a lifetime the service refuses */
  async create(claims: Omit<TokenClaims, 'expiresAt'>, minutes: number): Promise<string> {
    if (minutes > MAX_MINUTES) {
      throw new DomainError('INVALID', `ExpirationMinutes ${minutes} exceeded max allowed of ${MAX_MINUTES}.`);
    }
    const exp = Math.floor(this.#clock.now() / 1000) + minutes * 60;
    const payload: Payload = { ...claims, exp };
    return new CompactEncrypt(new TextEncoder().encode(JSON.stringify(payload)))
      .setProtectedHeader({ kid: this.#kid, alg: 'dir', enc: 'A256GCM' })
      .encrypt(this.#key);
  }

  async verify(token: string): Promise<TokenCheck> {
    const claims = this.#verified.get(token) ?? (await this.#decrypt(token));
    if (claims === undefined) return { kind: 'unreadable' };
    if (claims.expiresAt > this.#clock.now()) return { kind: 'valid', claims };
    this.#verified.delete(token);
    return { kind: 'expired', claims };
  }

  async #decrypt(token: string): Promise<TokenClaims | undefined> {
    try {
      const { plaintext, protectedHeader } = await compactDecrypt(token, this.#key, {
        keyManagementAlgorithms: ['dir'],
        contentEncryptionAlgorithms: ['A256GCM'],
      });
      if (protectedHeader.kid !== this.#kid) return undefined;
      const { microvmId, kind, ports, exp } = JSON.parse(new TextDecoder().decode(plaintext)) as Payload;
      const claims: TokenClaims = { microvmId, kind, ports, expiresAt: exp * 1000 };
      const [oldest] = this.#verified.keys();
      if (this.#verified.size >= CACHED && oldest !== undefined) this.#verified.delete(oldest);
      this.#verified.set(token, claims);
      return claims;
    } catch {
      return undefined;
    }
  }
}

/** The key lives in the store, so tokens outlive a restart. */
export async function openEndpointTokens(store: Store, clock: Pick<Clock, 'now'>): Promise<EndpointTokens> {
  const secret = await store.secret('endpoint-token-key', 32);
  const id = await store.secret('endpoint-token-kid', 16);
  const key = await crypto.subtle.importKey('raw', new Uint8Array(secret), 'AES-GCM', false, ['encrypt', 'decrypt']);
  return new EndpointTokens({ clock, kid: uuidOf(id), key });
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

/** 16 random bytes in the shape of a version 4 UUID. */
function uuidOf(random: Buffer): string {
  const bytes = Buffer.from(random);
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
