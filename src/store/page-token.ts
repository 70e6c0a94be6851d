/**
 * Page tokens: the key of the last row of a page, sealed so that clients can neither read meaning into one nor make one.
 *
 * A token is bound to its list (`scope`, filters included): one made for another list is refused.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { DomainError } from '../lib/index.ts';

/** One page of a list; `nextToken` is null on the last one. */
export interface Page<T> {
  readonly items: readonly T[];
  readonly nextToken: string | null;
}

/** Keyset position: creation time in ms, then id. */
export interface PageKey {
  readonly createdAt: number;
  readonly id: string;
}

const MAC_BYTES = 16;

export class PageTokens {
  readonly #key: Buffer;

  constructor(key: Buffer) {
    this.#key = key;
  }

  seal(scope: string, key: PageKey): string {
    const payload = Buffer.from(JSON.stringify([key.createdAt, key.id]));
    return Buffer.concat([this.#mac(scope, payload), payload]).toString('base64url');
  }

  /** @throws DomainError `INVALID` when the token is not one of ours for this list. */
  open(scope: string, token: string): PageKey {
    const bytes = Buffer.from(token, 'base64url');
    const payload = bytes.subarray(MAC_BYTES);
    const mac = bytes.subarray(0, MAC_BYTES);
    if (mac.length !== MAC_BYTES || !timingSafeEqual(mac, this.#mac(scope, payload))) {
      // GUESS: page-token-text
      throw new DomainError(
        'INVALID',
        'Invalid nextToken: it was not returned by this list operation with these filters.',
      );
    }
    const [createdAt, id] = JSON.parse(payload.toString('utf8')) as [number, string];
    return { createdAt, id };
  }

  #mac(scope: string, payload: Buffer): Buffer {
    return createHmac('sha256', this.#key)
      .update(`${scope.length}:${scope}`)
      .update(payload)
      .digest()
      .subarray(0, MAC_BYTES);
  }
}
