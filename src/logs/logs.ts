/**
 * The room behind its door: groups, streams, events and what keeps them bounded.
 *
 * What the server logs itself is collected for a moment and written in transactions of bounded work, so that a burst of lines
 * costs little and never holds requests up. Invariants: a page of answers is at most a MiB; the file stays below its bound,
 * the oldest events of the group with the most going first; an event that was read is never given another place; how far a
 * source got is written with its events.
 */
import { type Clock, DomainError, type Logger, messageOf, systemClock } from '../lib/index.ts';
import { EVENT_BYTES, type LogDatabase, openLogDatabase } from './database.ts';
import { compilePattern } from './filter-pattern.ts';
import { Tails } from './tails.ts';
import type {
  FilterPage,
  FilterQuery,
  GroupQuery,
  GroupView,
  LogEvent,
  LogSink,
  Logs,
  NewEvent,
  ReadQuery,
  ResumableSink,
  StreamQuery,
  StreamView,
  TailEvent,
  TailOptions,
} from './types.ts';

export interface LogsOptions {
  /** The database file. */
  readonly file: string;
  readonly log: Logger;
  readonly clock?: Clock;
  /** Of the file; default 1 GiB. */
  readonly maxBytes?: number;
}

const DAY_MS = 86_400_000;
const MAX_PAGE_BYTES = 1024 * 1024;
/** What CloudWatch counts per event besides its message. */
const EVENT_OVERHEAD = 26;
/** How long lines of the server's own wait for others. */
const COLLECT_MS = 100;
/** Written at once when this much waits: some ten milliseconds of work, for which requests wait. */
const MAX_PENDING_BYTES = 1024 * 1024;
const MAX_PENDING_EVENTS = 1_000;
/** Events that one call of `filter` looks at, at most. */
const MAX_SCANNED = 20_000;
const SWEEP_MS = 60_000;
/** Of one removal, so that requests get their turn. */
const REMOVED_AT_ONCE = 2_000;
/** What is removed at least when the file is full. */
const ROOM_PART = 0.1;
const MAX_MESSAGE_CHARACTERS = 256 * 1024;

interface Pending extends NewEvent {
  readonly group: string;
  readonly stream: string;
  readonly source?: { readonly id: string; readonly next: number };
}

export function createLogs(options: LogsOptions): Logs {
  return new LogsRoom(options);
}

class LogsRoom implements Logs {
  readonly #db: LogDatabase;
  readonly #log: Logger;
  readonly #clock: Clock;
  readonly #maxBytes: number;
  readonly #tails = new Tails();
  readonly #streamIds = new Map<string, { group: number; stream: number }>();
  #pending: Pending[] = [];
  #pendingBytes = 0;
  #flushTimer: Disposable | undefined;
  #sweepTimer: Disposable | undefined;
  /** The file reached its bound and is not yet well below it. */
  #isMakingRoom = false;

  constructor(options: LogsOptions) {
    this.#log = options.log;
    this.#clock = options.clock ?? systemClock;
    this.#maxBytes = options.maxBytes ?? 1024 * 1024 * 1024;
    this.#db = openLogDatabase(options.file, options.log);
    this.#sweepLater(SWEEP_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#sweepTimer?.[Symbol.dispose]();
    this.#tails.end();
    this.flush();
    this.#db[Symbol.dispose]();
  }

  createGroup(name: string): void {
    const made = this.#db.run(
      'INSERT INTO groups (name, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING',
      name,
      this.#now(),
    );
    if (made === 0) throw new DomainError('CONFLICT', 'The specified log group already exists');
  }

  deleteGroup(name: string): void {
    this.flush();
    this.#streamIds.clear();
    this.#db.run('DELETE FROM groups WHERE id = ?', this.#groupId(name));
  }

  setRetention(name: string, days: number | null): void {
    this.#db.run('UPDATE groups SET retention_days = ? WHERE id = ?', days, this.#groupId(name));
  }

  groups({ prefix = '', part, after = '', limit }: GroupQuery): readonly GroupView[] {
    this.flush();
    const rows = this.#db.all(
      `SELECT name, created_at, retention_days, (SELECT coalesce(sum(bytes), 0) FROM streams WHERE group_id = groups.id) AS bytes
       FROM groups WHERE name > ? AND substr(name, 1, ?) = ? AND instr(lower(name), ?) > 0 ORDER BY name LIMIT ?`,
      after,
      prefix.length,
      prefix,
      (part ?? '').toLowerCase(),
      limit,
    );
    return rows.map((row) => ({
      name: String(row.name),
      createdAt: Number(row.created_at),
      retentionDays: row.retention_days === null ? null : Number(row.retention_days),
      storedBytes: Number(row.bytes),
    }));
  }

  createStream(group: string, name: string): void {
    const made = this.#db.run(
      'INSERT INTO streams (group_id, name, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
      this.#groupId(group),
      name,
      this.#now(),
    );
    if (made === 0) throw new DomainError('CONFLICT', 'The specified log stream already exists');
  }

  deleteStream(group: string, name: string): void {
    this.flush();
    this.#streamIds.clear();
    this.#db.run('DELETE FROM streams WHERE id = ?', this.#find(group, name).stream);
  }

  streams(group: string, query: StreamQuery): readonly StreamView[] {
    this.flush();
    const direction = query.descending ? 'DESC' : 'ASC';
    const order = query.orderBy === 'name' ? `name ${direction}` : `last_at ${direction}, name ${direction}`;
    const prefix = query.prefix ?? '';
    const rows = this.#db.all(
      `SELECT name, created_at, last_ingested_at, bytes,
         (SELECT min(at) FROM events WHERE stream_id = streams.id) AS first_at,
         (SELECT max(at) FROM events WHERE stream_id = streams.id) AS last_at
       FROM streams WHERE group_id = ? AND substr(name, 1, ?) = ? ORDER BY ${order} LIMIT ? OFFSET ?`,
      this.#groupId(group),
      prefix.length,
      prefix,
      query.limit,
      query.offset,
    );
    return rows.map((row) => ({
      name: String(row.name),
      createdAt: Number(row.created_at),
      firstEventAt: numberOrNull(row.first_at),
      lastEventAt: numberOrNull(row.last_at),
      lastIngestedAt: numberOrNull(row.last_ingested_at),
      storedBytes: Number(row.bytes),
    }));
  }

  put(group: string, stream: string, events: readonly NewEvent[]): void {
    this.#find(group, stream);
    this.#write(events.map((event) => ({ ...event, group, stream })));
  }

  sink(group: string, stream: string): LogSink {
    return { write: (event) => this.#collect({ ...event, group, stream }) };
  }

  resumableSink(group: string, stream: string, id: string): ResumableSink {
    return {
      next: () => {
        this.flush();
        const row = this.#db.get(
          `SELECT next FROM sources JOIN streams ON streams.id = stream_id JOIN groups ON groups.id = group_id
           WHERE sources.id = ? AND streams.name = ? AND groups.name = ?`,
          id,
          stream,
          group,
        );
        return row === undefined ? undefined : Number(row.next);
      },
      write: (event, next) => this.#collect({ ...event, group, stream, source: { id, next } }),
    };
  }

  #collect(event: Pending): void {
    const message = event.message.slice(0, MAX_MESSAGE_CHARACTERS);
    this.#pending.push({ ...event, at: Math.min(event.at, this.#now()), message });
    this.#pendingBytes += message.length + EVENT_BYTES;
    if (this.#pendingBytes > MAX_PENDING_BYTES || this.#pending.length >= MAX_PENDING_EVENTS) this.flush();
    else this.#flushTimer ??= this.#clock.after(COLLECT_MS, () => this.flush());
  }

  flush(): void {
    this.#flushTimer?.[Symbol.dispose]();
    this.#flushTimer = undefined;
    const events = this.#pending;
    if (events.length === 0) return;
    this.#pending = [];
    this.#pendingBytes = 0;
    try {
      this.#write(events);
    } catch (error) {
      // A full disk, most likely: what an app says is no reason to stop it.
      this.#log.warn({ error: messageOf(error), events: events.length }, 'log events were lost');
    }
  }

  read(group: string, stream: string, query: ReadQuery): readonly LogEvent[] {
    this.flush();
    const id = this.#find(group, stream).stream;
    const { from = 0, to = Number.MAX_SAFE_INTEGER, after, before } = query;
    const forward = after !== undefined || (before === undefined && query.fromHead === true);
    const edge = after ?? before ?? (forward ? BEGINNING : END);
    const rows = this.#db.iterate(
      `SELECT id, at, ingested_at, message FROM events
       WHERE stream_id = ? AND at >= ? AND at < ? AND (at, id) ${forward ? '>' : '<'} (?, ?)
       ORDER BY at ${forward ? 'ASC' : 'DESC'}, id ${forward ? 'ASC' : 'DESC'} LIMIT ?`,
      id,
      from,
      to,
      edge.at,
      edge.id,
      query.limit,
    );
    const events: LogEvent[] = [];
    let bytes = 0;
    for (const row of rows) {
      const event = eventOf(row, stream);
      bytes += sizeOf(event);
      if (bytes > MAX_PAGE_BYTES && events.length > 0) break;
      events.push(event);
    }
    return forward ? events : events.reverse();
  }

  filter(group: string, query: FilterQuery): FilterPage {
    this.flush();
    const matches = compilePattern(query.pattern);
    const { from = 0, to = Number.MAX_SAFE_INTEGER, after = BEGINNING } = query;
    const groupId = this.#groupId(group);
    for (const name of query.streams ?? []) this.#find(group, name);
    const chosen = query.streams === undefined ? '' : `AND streams.name IN (SELECT value FROM json_each(?))`;
    const prefix = query.streamPrefix ?? '';
    const rows = this.#db.iterate(
      `SELECT events.id, at, ingested_at, message, streams.name FROM events JOIN streams ON streams.id = stream_id
       WHERE events.group_id = ? AND at >= ? AND at < ? AND (at, events.id) > (?, ?)
         AND substr(streams.name, 1, ?) = ? ${chosen}
       ORDER BY at, events.id LIMIT ?`,
      groupId,
      from,
      to,
      after.at,
      after.id,
      prefix.length,
      prefix,
      ...(query.streams === undefined ? [] : [JSON.stringify(query.streams)]),
      MAX_SCANNED + 1,
    );
    const events: LogEvent[] = [];
    let bytes = 0;
    let scanned = 0;
    let last = after;
    for (const row of rows) {
      const event = eventOf(row, String(row.name));
      const isWanted = matches(event.message);
      if (isWanted) bytes += sizeOf(event);
      const isFull = isWanted && (events.length === query.limit || (bytes > MAX_PAGE_BYTES && events.length > 0));
      if (isFull || scanned === MAX_SCANNED) return { events, next: last };
      scanned++;
      last = { at: event.at, id: event.id };
      if (isWanted) events.push(event);
    }
    return { events, next: undefined };
  }

  tail(groups: readonly string[], options: TailOptions): AsyncIterable<readonly TailEvent[]> {
    for (const group of groups) this.#groupId(group);
    return this.#tails.follow(groups, compilePattern(options.pattern), options);
  }

  #write(events: readonly Pending[]): void {
    const ingestedAt = this.#now();
    const written: TailEvent[] = [];
    this.#db.transaction(() => {
      const bytes = new Map<number, number>();
      const sources = new Map<string, { stream: number; id: string; next: number }>();
      for (const { group, stream, at, message, source } of events) {
        const ids = this.#ensure(group, stream, ingestedAt);
        const id = this.#db.insert(
          'INSERT INTO events (group_id, stream_id, at, ingested_at, message) VALUES (?, ?, ?, ?, ?)',
          ids.group,
          ids.stream,
          at,
          ingestedAt,
          message,
        );
        bytes.set(ids.stream, (bytes.get(ids.stream) ?? 0) + Buffer.byteLength(message));
        written.push({ group, stream, at, id, message, ingestedAt });
        if (source !== undefined) sources.set(`${ids.stream} ${source.id}`, { stream: ids.stream, ...source });
      }
      for (const { stream, id, next } of sources.values()) {
        this.#db.run('INSERT OR REPLACE INTO sources (stream_id, id, next) VALUES (?, ?, ?)', stream, id, next);
      }
      for (const [stream, added] of bytes) {
        this.#db.run(
          'UPDATE streams SET last_ingested_at = ?, bytes = bytes + ? WHERE id = ?',
          ingestedAt,
          added,
          stream,
        );
      }
    });
    this.#tails.offer(written);
    if (this.#db.usedBytes() > this.#maxBytes) this.#sweepLater(0);
  }

  #ensure(group: string, stream: string, now: number): { group: number; stream: number } {
    const key = JSON.stringify([group, stream]);
    const known = this.#streamIds.get(key);
    if (known !== undefined) return known;
    this.#db.run('INSERT INTO groups (name, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING', group, now);
    const groupId = this.#groupId(group);
    this.#db.run(
      'INSERT INTO streams (group_id, name, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
      groupId,
      stream,
      now,
    );
    const found = this.#find(group, stream);
    this.#streamIds.set(key, found);
    return found;
  }

  #groupId(name: string): number {
    const row = this.#db.get('SELECT id FROM groups WHERE name = ?', name);
    if (row === undefined) throw new DomainError('NOT_FOUND', 'The specified log group does not exist.');
    return Number(row.id);
  }

  #find(group: string, name: string): { group: number; stream: number } {
    const groupId = this.#groupId(group);
    const row = this.#db.get('SELECT id FROM streams WHERE group_id = ? AND name = ?', groupId, name);
    if (row === undefined) throw new DomainError('NOT_FOUND', 'The specified log stream does not exist.');
    return { group: groupId, stream: Number(row.id) };
  }

  #sweepLater(ms: number): void {
    this.#sweepTimer?.[Symbol.dispose]();
    this.#sweepTimer = this.#clock.after(ms, () => {
      let isMore = false;
      try {
        isMore = this.#sweep();
      } catch (error) {
        this.#log.warn({ error: messageOf(error) }, 'old log events could not be removed');
      }
      this.#sweepLater(isMore ? 1 : SWEEP_MS);
    });
  }

  /** Removes what is too old or too much, a bounded number at a time; true when there is more to do. */
  #sweep(): boolean {
    let removed = 0;
    for (const { id, retention_days: days } of this.#db.all(
      'SELECT id, retention_days FROM groups WHERE retention_days IS NOT NULL',
    )) {
      removed += this.#db.run(
        'DELETE FROM events WHERE id IN (SELECT id FROM events WHERE group_id = ? AND at < ? LIMIT ?)',
        Number(id),
        this.#now() - Number(days) * DAY_MS,
        REMOVED_AT_ONCE,
      );
    }
    const bound = this.#isMakingRoom ? this.#maxBytes * (1 - ROOM_PART) : this.#maxBytes;
    this.#isMakingRoom = this.#db.usedBytes() > bound;
    if (this.#isMakingRoom) {
      removed += this.#db.run(
        // Who floods loses its own: each of the others keeps what it has until it has the most.
        `DELETE FROM events WHERE id IN (SELECT id FROM events WHERE group_id =
           (SELECT group_id FROM streams GROUP BY group_id ORDER BY sum(bytes) DESC LIMIT 1) ORDER BY at, id LIMIT ?)`,
        REMOVED_AT_ONCE,
      );
    }
    this.#db.shrink();
    return removed >= REMOVED_AT_ONCE || (this.#isMakingRoom && removed > 0);
  }

  #now(): number {
    return this.#clock.now();
  }
}

const BEGINNING = { at: -1, id: -1 };
const END = { at: Number.MAX_SAFE_INTEGER, id: Number.MAX_SAFE_INTEGER };

function eventOf(row: Record<string, unknown>, stream: string): LogEvent {
  const { id, at, ingested_at: ingestedAt, message } = row;
  return { stream, id: Number(id), at: Number(at), ingestedAt: Number(ingestedAt), message: String(message) };
}

function sizeOf({ message }: LogEvent): number {
  return Buffer.byteLength(message) + EVENT_OVERHEAD;
}

function numberOrNull(value: unknown): number | null {
  return value === null || value === undefined ? null : Number(value);
}
