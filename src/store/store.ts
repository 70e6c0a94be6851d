/**
 * Durable records behind one interface. The store knows keys, not meanings: a row is a JSON body with the columns that
 * lists, state scans and timers need, so that none of them reads more rows than it returns.
 *
 * Invariant: `write` is all or nothing and, unless told otherwise, durable when it resolves; a row is only replaced by
 * somebody who has seen its present `revision`.
 */
import type { PageKey, PageTokens } from './page-token.ts';

export const RECORD_KINDS = [
  'images',
  'versions',
  'builds',
  'microvms',
  'connectors',
  'connector_names',
  'principals',
  'access_keys',
  'clocks',
  'revocations',
  'token_keys',
] as const;
export type RecordKind = (typeof RECORD_KINDS)[number];

/** What belongs to a row before it was written. */
export interface NewRow<Body> {
  readonly id: string;
  readonly state: string;
  /** Coarse and fine key that lists filter on, e.g. image ARN and version. */
  readonly group: string;
  readonly subgroup: string;
  /** ms since the epoch; lists are ordered by it, newest first, then by id. */
  readonly createdAt: number;
  /** When somebody has to look at the row again, ms since the epoch. */
  readonly dueAt: number | null;
  readonly body: Body;
}

export interface Row<Body> extends NewRow<Body> {
  /** 1 when inserted, one more with each save. */
  readonly revision: number;
}

export interface ListQuery {
  readonly group?: string;
  /** Only together with `group`. */
  readonly subgroup?: string;
  /** Continues behind this row. */
  readonly after?: PageKey;
  readonly limit: number;
}

/** Rows by their keys; a part left out fits every row. */
export interface Where {
  readonly group?: string;
  readonly subgroup?: string;
  readonly states?: readonly string[];
}

/** One step of a write, or a condition on what it may be based on; made by `Records`. */
export type Write =
  | { readonly op: 'insert'; readonly kind: RecordKind; readonly row: NewRow<unknown> }
  | { readonly op: 'save'; readonly kind: RecordKind; readonly row: Row<unknown> }
  | { readonly op: 'delete'; readonly kind: RecordKind; readonly id: string; readonly revision: number }
  | { readonly op: 'unchanged'; readonly kind: RecordKind; readonly id: string; readonly revision: number }
  | { readonly op: 'fewer'; readonly kind: RecordKind; readonly than: number; readonly where: Where }
  | { readonly op: 'release'; readonly resource: string };

/** A client token: makes a repeated call return what the first one made. */
export interface Claim {
  /** Operation, and whatever else separates name spaces of tokens. */
  readonly scope: string;
  readonly token: string;
  /** Digest over the call's parameters. */
  readonly fingerprint: string;
  /** Id of what the call makes. */
  readonly resource: string;
  readonly createdAt: number;
}

export type WriteResult =
  | { readonly kind: 'written' }
  /** `index` of the write that met another revision, an existing id or nothing, or of the condition that does not hold; nothing was written. */
  | { readonly kind: 'conflict'; readonly index: number }
  /** The token was used before; nothing was written. */
  | { readonly kind: 'claimed'; readonly claim: Claim };

/** Rows of one kind with a typed body. The type is a promise of the room that owns the kind. */
export interface Records<Body> {
  get(id: string): Promise<Row<Body> | undefined>;
  /** Newest first. */
  list(query: ListQuery): Promise<readonly Row<Body>[]>;
  /** Rows in one of `states`, by id; pass the last id to go on. */
  inStates(states: readonly string[], options: { afterId?: string; limit: number }): Promise<readonly Row<Body>[]>;
  /** Rows whose `dueAt` is not after `at`, earliest first. */
  due(at: number, limit: number): Promise<readonly Row<Body>[]>;
  /** The earliest `dueAt` of all. */
  nextDueAt(): Promise<number | undefined>;
  insert(row: NewRow<Body>): Write;
  /** Replaces the row that has the same id and revision. */
  save(row: Row<Body>): Write;
  delete(row: { readonly id: string; readonly revision: number }): Write;
  /** Holds while the row is still the one that was seen. */
  unchanged(row: { readonly id: string; readonly revision: number }): Write;
  /** Holds while fewer than `than` rows fit: for quotas (`than` = the quota) and for what must not be in use (1). */
  fewer(than: number, where: Where): Write;
}

/** Lets go of the client tokens of what `resource` names, so that they can be used again. */
export function releaseClaims(resource: string): Write {
  return { op: 'release', resource };
}

export interface WriteOptions {
  /**
   * What the write outlives: `host` (the default) a loss of power, at the price of a flush; `process` only the end of
   * this process. A later write of the first sort carries the earlier ones with it.
   */
  readonly survives?: 'host' | 'process';
}

export interface Store extends AsyncDisposable {
  readonly pageTokens: PageTokens;
  records<Body>(kind: RecordKind): Records<Body>;
  write(writes: readonly Write[], claim?: Claim, options?: WriteOptions): Promise<WriteResult>;
  findClaim(scope: string, token: string): Promise<Claim | undefined>;
  /** Drops client tokens made before `at`; returns how many. */
  forgetClaims(at: number): Promise<number>;
  /** A random secret of `length` bytes, made at the first call with this name and the same ever after. */
  secret(name: string, length: number): Promise<Buffer>;
}

/** Thrown by `openStore`; the message tells the operator what to do. */
export class StoreError extends Error {
  override readonly name = 'StoreError';
}
