/** Roles whose credentials nobody gets, whatever the roles file says, until they are restored. Kept in the store. */
import { type Clock, DomainError } from '../../lib/index.ts';
import type { Row, Store } from '../../store/index.ts';

export interface RevokedRole {
  readonly roleArn: string;
  /** ms since the epoch. */
  readonly revokedAt: number;
}

type Nothing = Readonly<Record<string, never>>;

const PAGE = 500;

export async function openRevocations(store: Store, clock: Clock): Promise<Revocations> {
  const rows = new Map<string, Row<Nothing>>();
  let after: Row<Nothing> | undefined;
  do {
    const page = await store.records<Nothing>('revocations').list({ limit: PAGE, ...(after && { after }) });
    for (const row of page) rows.set(row.id, row);
    after = page.length === PAGE ? page.at(-1) : undefined;
  } while (after !== undefined);
  return new Revocations(store, clock, rows);
}

export class Revocations {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #rows: Map<string, Row<Nothing>>;

  constructor(store: Store, clock: Clock, rows: Map<string, Row<Nothing>>) {
    this.#store = store;
    this.#clock = clock;
    this.#rows = rows;
  }

  has(roleArn: string): boolean {
    return this.#rows.has(roleArn);
  }

  list(): readonly RevokedRole[] {
    return [...this.#rows.values()].map(({ id, createdAt }) => ({ roleArn: id, revokedAt: createdAt }));
  }

  /** In force at once, before it is on disk; it does not hold when that fails. */
  async add(roleArn: string): Promise<void> {
    if (this.#rows.has(roleArn)) return;
    const createdAt = this.#clock.now();
    const row = { id: roleArn, state: 'REVOKED', group: '', subgroup: '', createdAt, dueAt: null, body: {} };
    this.#rows.set(roleArn, { ...row, revision: 1 });
    try {
      await this.#store.write([this.#store.records<Nothing>('revocations').insert(row)]);
    } catch (error) {
      this.#rows.delete(roleArn);
      throw error;
    }
  }

  async remove(roleArn: string): Promise<void> {
    const row = this.#rows.get(roleArn);
    if (row === undefined) throw new DomainError('NOT_FOUND', `The role ${roleArn.slice(0, 200)} is not revoked.`);
    await this.#store.write([this.#store.records<Nothing>('revocations').delete(row)]);
    this.#rows.delete(roleArn);
  }
}
