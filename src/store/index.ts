/** The store room's door: durable records behind one interface. */
export { DueClock } from './due-clock.ts';
export { fingerprintOf } from './fingerprint.ts';
export { type Page, type PageKey, PageTokens } from './page-token.ts';
export { readPage } from './paging.ts';
export { openStore } from './sqlite/sqlite-store.ts';
export {
  type Claim,
  type ListQuery,
  type NewRow,
  RECORD_KINDS,
  type RecordKind,
  type Records,
  type Row,
  releaseClaims,
  type Store,
  StoreError,
  type Where,
  type Write,
  type WriteOptions,
  type WriteResult,
} from './store.ts';
