/**
 * The keys of endpoint tokens. New tokens are made with the newest; an older one is kept for as long as a token made with
 * it may still be good, then deleted. A token names its key by `kid`, so a rotation cuts nothing.
 *
 * Invariant: a key that makes tokens is on disk before the first of them leaves.
 */
import { type Clock, type Ids, type Logger, messageOf } from '../lib/index.ts';
import type { NewRow, Records, Row, Store, Write } from '../store/index.ts';

export interface TokenKey {
  readonly kid: string;
  /** The first part of every token made with it, byte for byte: no other header is ever read. */
  readonly header: string;
  readonly key: CryptoKey;
}

export interface TokenKeysOptions {
  readonly store: Store;
  /** Elapsed time (steady-clock.ts), which the expiry of tokens goes by. */
  readonly elapsed: Pick<Clock, 'now'>;
  readonly clock: Clock;
  readonly ids: Ids;
  readonly log: Logger;
  /** How long a token made with a key may be good after the key was retired. */
  readonly keepMs: number;
}

/** How old a key gets. GUESS: token-key-rotation */
const ROTATE_EVERY_MS = 7 * 24 * 3_600_000;
const LOOK_EVERY_MS = 3_600_000;

interface Body {
  /** 32 bytes, base64url. */
  readonly secret: string;
  /** Elapsed time. */
  readonly madeAtMs: number;
  /** When a newer one took over. */
  readonly retiredAtMs: number | null;
}

interface Held extends TokenKey {
  readonly row: Row<Body>;
}

export class TokenKeys implements Disposable {
  readonly #o: TokenKeysOptions;
  readonly #rows: Records<Body>;
  /** By header. */
  readonly #held = new Map<string, Held>();
  #current: Held;
  #rotating: Promise<unknown> = Promise.resolve();
  #timer: Disposable | undefined;

  constructor(options: TokenKeysOptions, held: readonly Held[], current: Held) {
    this.#o = options;
    this.#rows = rowsOf(options.store);
    for (const key of held) this.#held.set(key.header, key);
    this.#current = current;
  }

  get current(): TokenKey {
    return this.#current;
  }

  /** Undefined: no key of ours, or one that is forgotten. */
  byHeader(header: string): TokenKey | undefined {
    return this.#held.get(header);
  }

  /** Begins to rotate and forget by itself. Never rejects. */
  async start(): Promise<void> {
    try {
      await this.#forget();
      if (this.#o.elapsed.now() - this.#current.row.body.madeAtMs >= ROTATE_EVERY_MS) await this.rotate();
    } catch (error) {
      this.#o.log.warn({ error: messageOf(error) }, 'the keys of endpoint tokens could not be rotated; trying again');
    }
    this.#timer = this.#o.clock.after(LOOK_EVERY_MS, () => void this.start());
  }

  /** From now on tokens are made with a new key; those made before stay good. Answers the new key's id. */
  rotate(): Promise<string> {
    const rotated = this.#rotating.then(() => this.#rotate());
    this.#rotating = rotated.catch(() => {});
    return rotated;
  }

  [Symbol.dispose](): void {
    this.#timer?.[Symbol.dispose]();
  }

  async #rotate(): Promise<string> {
    const { store, ids, elapsed, clock, log } = this.#o;
    const before = this.#current;
    const row = newRow(ids.uuid(), ids.bytes(32), { nowMs: clock.now(), elapsedMs: elapsed.now() });
    const retired = { ...before.row, state: 'RETIRED', body: { ...before.row.body, retiredAtMs: elapsed.now() } };
    await written(store, [this.#rows.insert(row), this.#rows.save(retired)]);
    const next = await heldOf({ ...row, revision: 1 });
    this.#held.set(next.header, next);
    this.#held.set(before.header, { ...before, row: { ...retired, revision: before.row.revision + 1 } });
    this.#current = next;
    log.info({ kid: next.kid, before: before.kid }, 'endpoint tokens are made with a new key');
    return next.kid;
  }

  async #forget(): Promise<void> {
    for (const { header, row } of [...this.#held.values()]) {
      const { retiredAtMs } = row.body;
      if (retiredAtMs === null || this.#o.elapsed.now() - retiredAtMs < this.#o.keepMs) continue;
      await written(this.#o.store, [this.#rows.delete(row)]);
      this.#held.delete(header);
      this.#o.log.info({ kid: row.id }, 'a key of endpoint tokens is forgotten');
    }
  }
}

/** Takes up the keys of earlier servers, or makes the first one. */
export async function openTokenKeys(options: TokenKeysOptions): Promise<TokenKeys> {
  const rows = await rowsOf(options.store).inStates(['ISSUING', 'RETIRED'], { limit: 1000 });
  const held = await Promise.all(rows.map(heldOf));
  const current = held.find(({ row }) => row.state === 'ISSUING') ?? (await firstKey(options));
  return new TokenKeys(options, [...held, current], current);
}

async function firstKey({ store, ids, clock, elapsed }: TokenKeysOptions): Promise<Held> {
  const row = newRow(ids.uuid(), ids.bytes(32), { nowMs: clock.now(), elapsedMs: elapsed.now() });
  await written(store, [rowsOf(store).insert(row)]);
  return heldOf({ ...row, revision: 1 });
}

async function heldOf(row: Row<Body>): Promise<Held> {
  const secret = Buffer.from(row.body.secret, 'base64url');
  const key = await crypto.subtle.importKey('raw', secret, 'AES-GCM', false, ['encrypt', 'decrypt']);
  const header = Buffer.from(JSON.stringify(protectedHeader(row.id))).toString('base64url');
  return { kid: row.id, header, key, row };
}

/** Source: recorded tokens; the members in this order. */
export function protectedHeader(kid: string): { kid: string; alg: 'dir'; enc: 'A256GCM' } {
  return { kid, alg: 'dir', enc: 'A256GCM' };
}

function rowsOf(store: Store): Records<Body> {
  return store.records<Body>('token_keys');
}

function newRow(kid: string, secret: Buffer, at: { nowMs: number; elapsedMs: number }): NewRow<Body> {
  const body: Body = { secret: secret.toString('base64url'), madeAtMs: at.elapsedMs, retiredAtMs: null };
  return { id: kid, state: 'ISSUING', group: '', subgroup: '', createdAt: at.nowMs, dueAt: null, body };
}

async function written(store: Store, writes: readonly Write[]): Promise<void> {
  const { kind } = await store.write(writes);
  if (kind !== 'written') throw new Error('the keys of endpoint tokens were changed by somebody else');
}
