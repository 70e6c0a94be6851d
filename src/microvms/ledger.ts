/**
 * Records of microVMs in the store, and the one way they change: load, apply the pure transition, save if nobody else
 * did meanwhile, tell who has to act on it.
 */
import { type Clock, DomainError, type Logger } from '../lib/index.ts';
import type { Claim, NewRow, Records, Row, Store, Write, WriteResult } from '../store/index.ts';
import { apply, dueAt, type Event, type Microvm, type Outcome } from './lifecycle.ts';

/** What `state` columns can hold; kept in step with the record's own. */
export type MicrovmRow = Row<Microvm>;

/** `before` is undefined for a new record, whose `revision` is 1. */
export type OnMoved = (record: Microvm, before: Microvm | undefined, revision: number) => void;

/** More conflicts than this in a row on one record mean a bug, not a race. */
export const MAX_CONFLICTS = 20;

export class Ledger {
  readonly rows: Records<Microvm>;
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #elapsed: { now(): number };
  readonly #log: Logger;
  readonly #onMoved: OnMoved;

  constructor(options: { store: Store; clock: Clock; elapsed: { now(): number }; log: Logger; onMoved: OnMoved }) {
    this.rows = options.store.records<Microvm>('microvms');
    this.#store = options.store;
    this.#clock = options.clock;
    this.#elapsed = options.elapsed;
    this.#log = options.log;
    this.#onMoved = options.onMoved;
  }

  async find(id: string): Promise<Microvm | undefined> {
    return (await this.rows.get(id))?.body;
  }

  /** @throws DomainError `NOT_FOUND` in the recorded words */
  async get(id: string): Promise<Microvm> {
    return (await this.row(id)).body;
  }

  /** The record with its revision. @throws DomainError `NOT_FOUND` */
  async row(id: string): Promise<MicrovmRow> {
    const row = await this.rows.get(id);
    if (row === undefined) throw new DomainError('NOT_FOUND', `MicroVM not found: ${id}`);
    return row;
  }

  /** `condition` is write 0 of the result. */
  async insert(record: Microvm, condition: Write, claim?: Claim): Promise<WriteResult> {
    const result = await this.#store.write([condition, this.rows.insert(rowOf(record))], claim);
    if (result.kind === 'written') this.#announce(record, undefined, 1);
    return result;
  }

  /**
   * Applies `event` to the record as it is now. With `revision`, only if the record did not move since.
   * @throws DomainError `NOT_FOUND`
   */
  async apply(id: string, event: Event, options: { revision?: number } = {}): Promise<Outcome> {
    for (let attempt = 0; attempt < MAX_CONFLICTS; attempt++) {
      const row = await this.row(id);
      if (options.revision !== undefined && row.revision !== options.revision) return { kind: 'stale' };
      const outcome = apply(row.body, event, { wallMs: this.#clock.now(), elapsedMs: this.#elapsed.now() });
      if (outcome.kind !== 'moved') return outcome;
      const write = this.rows.save({ ...rowOf(outcome.record), revision: row.revision });
      const saved = await this.#store.write([write], undefined, { survives: survivalOf(outcome.record) });
      if (saved.kind === 'conflict') continue;
      this.#announce(outcome.record, row.body, row.revision + 1);
      return outcome;
    }
    throw new Error(`the record of ${id} kept changing under ${event.type}`);
  }

  /**
   * The same microVM at another address. A port it had is kept for when it gets ports again. Only at start, before
   * anything goes by the record's revision.
   */
  async readdress(id: string, { address, port }: { address: string; port: number | null }): Promise<void> {
    for (let attempt = 0; attempt < MAX_CONFLICTS; attempt++) {
      const row = await this.rows.get(id);
      if (row === undefined) return;
      const record = { ...row.body, endpoint: address, endpointPort: port ?? row.body.endpointPort };
      const saved = await this.#store.write([this.rows.save({ ...rowOf(record), revision: row.revision })]);
      if (saved.kind === 'conflict') continue;
      this.#log.info({ microvmId: id, from: row.body.endpoint, to: address }, 'microVM has another address');
      return;
    }
    throw new Error(`the record of ${id} kept changing under its new address`);
  }

  /** Every record in one of `states`, page by page. */
  async *inStates(states: readonly string[]): AsyncIterable<MicrovmRow> {
    const limit = 200;
    let afterId = '';
    for (;;) {
      const page = await this.rows.inStates(states, { afterId, limit });
      yield* page;
      const last = page.at(-1);
      if (last === undefined || page.length < limit) return;
      afterId = last.id;
    }
  }

  #announce(record: Microvm, before: Microvm | undefined, revision: number): void {
    const reason = reasonOf(record);
    this.#log.info(
      { microvmId: record.id, from: before?.state ?? null, to: record.state, ...(reason && { reason }) },
      'microVM changed state',
    );
    this.#onMoved(record, before, revision);
  }
}

/** What the log says beside the states. */
function reasonOf(record: Microvm): string | null {
  if (record.state === 'TERMINATING' || record.state === 'TERMINATED') return record.reason;
  if (record.state === 'SUSPENDED') return record.remark;
  return record.state === 'RUNNING' ? record.suspendFailure : null;
}

/**
 * States with a live machine say nothing that holds after a loss of power, since that ends the machine: their writes need
 * no flush, which would hold up every request while it lasts. A record that is older than the truth then is corrected at start
 * by the files of its machine, which were flushed before its guest ran (`engine.recall`).
 */
function survivalOf({ state }: Microvm): 'host' | 'process' {
  switch (state) {
    case 'RUNNING':
    case 'RESUMING':
    case 'SUSPENDING':
    case 'EXITED':
      return 'process';
    case 'PENDING':
    case 'SUSPENDED':
    case 'TERMINATING':
    case 'TERMINATED':
      return 'host';
    default:
      return state satisfies never;
  }
}

function rowOf(record: Microvm): NewRow<Microvm> {
  return {
    id: record.id,
    state: record.state,
    group: record.imageArn,
    subgroup: record.imageVersion,
    createdAt: record.startedAt,
    dueAt: dueAt(record),
    body: record,
  };
}
