/**
 * The file behind the logs: SQLite, because order, ranges and removal are what it does well. Calls are synchronous and short.
 *
 * Invariant: `bytes` of a stream is the sum over its events, whoever removes them.
 */
import { chmodSync, closeSync, mkdirSync, openSync, renameSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import { type Logger, messageOf } from '../lib/index.ts';

/** What an event takes besides its message, indexes included; about. */
export const EVENT_BYTES = 90;

const GENERATION = 2;
/** How far those who wrote into a stream had got. */
const SOURCES = `
CREATE TABLE sources (
  stream_id INTEGER NOT NULL REFERENCES streams ON DELETE CASCADE,
  id TEXT NOT NULL,
  next INTEGER NOT NULL,
  PRIMARY KEY (stream_id, id)
) STRICT, WITHOUT ROWID;
`;
const SCHEMA = `
CREATE TABLE groups (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL, retention_days INTEGER) STRICT;
CREATE TABLE streams (
  id INTEGER PRIMARY KEY,
  group_id INTEGER NOT NULL REFERENCES groups ON DELETE CASCADE,
  name TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  last_ingested_at INTEGER,
  bytes INTEGER NOT NULL DEFAULT 0,
  UNIQUE (group_id, name)
) STRICT;
CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  group_id INTEGER NOT NULL,
  stream_id INTEGER NOT NULL REFERENCES streams ON DELETE CASCADE,
  at INTEGER NOT NULL,
  ingested_at INTEGER NOT NULL,
  message TEXT NOT NULL
) STRICT;
CREATE INDEX events_of_stream ON events (stream_id, at, id);
CREATE INDEX events_of_group ON events (group_id, at, id);
CREATE TRIGGER event_removed AFTER DELETE ON events BEGIN
  UPDATE streams SET bytes = bytes - octet_length(old.message) WHERE id = old.stream_id;
END;
${SOURCES}`;

/** Opens or makes it. What cannot be read is put aside: logs are no reason not to start. */
export function openLogDatabase(path: string, log: Logger): LogDatabase {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  try {
    return new LogDatabase(path);
  } catch (error) {
    const aside = `${path}.unreadable`;
    log.warn(
      { error: messageOf(error), aside },
      'the logs cannot be read and are begun anew; the old file was put aside',
    );
    for (const suffix of ['', '-wal', '-shm']) {
      try {
        renameSync(path + suffix, aside + suffix);
      } catch {
        // That part does not exist.
      }
    }
    return new LogDatabase(path);
  }
}

export class LogDatabase implements Disposable {
  readonly #database: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();
  readonly #pageBytes: number;

  /** @throws when the file is not ours or damaged */
  constructor(path: string) {
    closeSync(openSync(path, 'a', 0o600));
    chmodSync(path, 0o600);
    const database = new DatabaseSync(path);
    try {
      // Effective for a file without tables only; gives room back as events go.
      database.exec('PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL');
      database.exec('PRAGMA foreign_keys = ON; PRAGMA journal_size_limit = 16777216');
      const generation = Number(database.prepare('PRAGMA user_version').get()?.user_version);
      const missing = { 0: SCHEMA, 1: SOURCES }[generation];
      if (missing !== undefined) database.exec(`BEGIN; ${missing} PRAGMA user_version = ${GENERATION}; COMMIT`);
      else if (generation !== GENERATION) throw new Error(`the logs are of generation ${generation}`);
    } catch (error) {
      database.close();
      throw error;
    }
    this.#database = database;
    this.#pageBytes = Number(this.get('PRAGMA page_size')?.page_size);
  }

  run(sql: string, ...values: SQLInputValue[]): number {
    return Number(this.#statement(sql).run(...values).changes);
  }

  /** The number of the new row. */
  insert(sql: string, ...values: SQLInputValue[]): number {
    return Number(this.#statement(sql).run(...values).lastInsertRowid);
  }

  get(sql: string, ...values: SQLInputValue[]): Record<string, unknown> | undefined {
    return this.#statement(sql).get(...values);
  }

  all(sql: string, ...values: SQLInputValue[]): Record<string, unknown>[] {
    return this.#statement(sql).all(...values);
  }

  iterate(sql: string, ...values: SQLInputValue[]): Iterable<Record<string, unknown>> {
    return this.#statement(sql).iterate(...values);
  }

  transaction<T>(work: () => T): T {
    this.#database.exec('BEGIN IMMEDIATE');
    try {
      const result = work();
      this.#database.exec('COMMIT');
      return result;
    } catch (error) {
      this.#database.exec('ROLLBACK');
      throw error;
    }
  }

  /** Of the file, pages that are free again not counted. */
  usedBytes(): number {
    const pages = Number(this.get('PRAGMA page_count')?.page_count);
    return (pages - Number(this.get('PRAGMA freelist_count')?.freelist_count)) * this.#pageBytes;
  }

  /** Gives free pages back to the file system, a bounded number of them. */
  shrink(): void {
    this.#database.exec('PRAGMA incremental_vacuum(2000)');
  }

  [Symbol.dispose](): void {
    this.#database.close();
  }

  #statement(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#database.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }
}
