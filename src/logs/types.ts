/** What other rooms and the wire see of logs: groups of streams of events, as CloudWatch Logs has them. Instants are ms since the epoch. */

/** Where an event stands in the order of its stream: by time, then by arrival. */
export interface Position {
  readonly at: number;
  readonly id: number;
}

export interface LogEvent extends Position {
  readonly stream: string;
  readonly message: string;
  readonly ingestedAt: number;
}

export interface NewEvent {
  readonly at: number;
  readonly message: string;
}

export interface GroupView {
  readonly name: string;
  readonly createdAt: number;
  /** Null: events are kept until the disk's bound is reached. */
  readonly retentionDays: number | null;
  readonly storedBytes: number;
}

export interface StreamView {
  readonly name: string;
  readonly createdAt: number;
  /** Null: it holds no event. */
  readonly firstEventAt: number | null;
  readonly lastEventAt: number | null;
  readonly lastIngestedAt: number | null;
  readonly storedBytes: number;
}

/** Events of these instants: `from` inclusive, `to` exclusive. */
export interface Period {
  readonly from?: number;
  readonly to?: number;
}

export interface ReadQuery extends Period {
  /** Events behind this one, in order, or before it. Neither: from the beginning or the end of the stream. */
  readonly after?: Position;
  readonly before?: Position;
  readonly fromHead?: boolean;
  /** 1..10,000. */
  readonly limit: number;
}

export interface FilterQuery extends Period {
  /** Only these; absent: all of the group. */
  readonly streams?: readonly string[];
  readonly streamPrefix?: string;
  /** CloudWatch's filter pattern; absent or empty: everything. */
  readonly pattern?: string;
  readonly after?: Position;
  readonly limit: number;
}

export interface FilterPage {
  readonly events: readonly LogEvent[];
  /** Where to go on; undefined: there was nothing more. A page may be empty and yet not the last. */
  readonly next: Position | undefined;
}

export interface StreamQuery {
  readonly prefix?: string;
  readonly orderBy: 'name' | 'lastEvent';
  readonly descending: boolean;
  readonly offset: number;
  readonly limit: number;
}

export interface GroupQuery {
  readonly prefix?: string;
  /** Part of the name, in any case. */
  readonly part?: string;
  /** Names behind this one. */
  readonly after?: string;
  readonly limit: number;
}

/** Takes what the server itself logs on behalf of something; never fails its caller. */
export interface LogSink {
  /** Group and stream are made with the first event. */
  write(event: NewEvent): void;
}

/** One whose source counts what it wrote and can give the newest again: kept once each, also when the server was killed meanwhile. */
export interface ResumableSink {
  /** What was given with the last event that is kept; undefined: there is none. */
  next(): number | undefined;
  /** `next`: what the source goes on with after this event. */
  write(event: NewEvent, next: number): void;
}

export interface Logs extends AsyncDisposable {
  /** @throws DomainError CONFLICT */
  createGroup(name: string): void;
  /** With all its streams. @throws DomainError NOT_FOUND */
  deleteGroup(name: string): void;
  /** @throws DomainError NOT_FOUND */
  setRetention(name: string, days: number | null): void;
  groups(query: GroupQuery): readonly GroupView[];
  /** @throws DomainError NOT_FOUND, CONFLICT */
  createStream(group: string, name: string): void;
  /** @throws DomainError NOT_FOUND */
  deleteStream(group: string, name: string): void;
  /** @throws DomainError NOT_FOUND */
  streams(group: string, query: StreamQuery): readonly StreamView[];
  /** Events from a client; group and stream must be there. @throws DomainError NOT_FOUND */
  put(group: string, stream: string, events: readonly NewEvent[]): void;
  /** Ascending; at most a MiB. @throws DomainError NOT_FOUND */
  read(group: string, stream: string, query: ReadQuery): readonly LogEvent[];
  /** @throws DomainError NOT_FOUND, INVALID (the pattern) */
  filter(group: string, query: FilterQuery): FilterPage;
  /** What arrives in these groups from now on, in batches, until the signal. @throws DomainError NOT_FOUND, INVALID */
  tail(groups: readonly string[], options: TailOptions): AsyncIterable<readonly TailEvent[]>;
  sink(group: string, stream: string): LogSink;
  /** `source`: who writes there, for several may. */
  resumableSink(group: string, stream: string, source: string): ResumableSink;
  /** Everything written until now can be read. */
  flush(): void;
}

export interface TailEvent extends LogEvent {
  readonly group: string;
}

export interface TailOptions {
  readonly streams?: readonly string[];
  readonly streamPrefixes?: readonly string[];
  readonly pattern?: string;
  readonly signal: AbortSignal;
}
