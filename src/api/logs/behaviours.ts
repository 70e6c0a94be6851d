/** What each operation of CloudWatch Logs does, and on what its caller must be allowed to act. */
import { type operations, RETENTION_DAYS } from '../../../spec/cloudwatch-logs.ts';
import type { InputOf, OutputOf } from '../../../spec/shape.ts';
import { type Clock, DomainError } from '../../lib/index.ts';
import type { LogEvent, Logs, Position } from '../../logs/index.ts';

type Table = typeof operations;
export type LogsOperation = keyof Table;
type Input<N extends LogsOperation> = InputOf<Table[N]['input']>;
type Output<N extends LogsOperation> = OutputOf<Table[N]['output']>;

export interface Scope {
  readonly region: string;
  readonly account: string;
}

export interface LogsCall extends Scope {
  readonly logs: Logs;
  readonly clock: Clock;
}

type Behaviour<N extends LogsOperation> = (input: Input<N>, call: LogsCall) => Output<N>;
type AnyBehaviour = (input: unknown, call: LogsCall) => Readonly<Record<string, unknown>>;

const MAX_PAGE = 50;
const MAX_EVENTS = 10_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

function behaviour<N extends LogsOperation>(_name: N, run: Behaviour<N>): AnyBehaviour {
  return run as AnyBehaviour;
}

export const behaviours: Readonly<Record<Exclude<LogsOperation, 'StartLiveTail'>, AnyBehaviour>> = {
  CreateLogGroup: behaviour('CreateLogGroup', ({ logGroupName }, { logs }) => {
    logs.createGroup(logGroupName);
    return {};
  }),
  DeleteLogGroup: behaviour('DeleteLogGroup', ({ logGroupName }, { logs }) => {
    logs.deleteGroup(logGroupName);
    return {};
  }),
  PutRetentionPolicy: behaviour('PutRetentionPolicy', ({ logGroupName, retentionInDays }, { logs }) => {
    if (!RETENTION_DAYS.includes(retentionInDays)) {
      throw new DomainError('INVALID', `retentionInDays must be one of ${RETENTION_DAYS.join(', ')}.`);
    }
    logs.setRetention(logGroupName, retentionInDays);
    return {};
  }),
  DeleteRetentionPolicy: behaviour('DeleteRetentionPolicy', ({ logGroupName }, { logs }) => {
    logs.setRetention(logGroupName, null);
    return {};
  }),
  DescribeLogGroups: behaviour('DescribeLogGroups', (input, call) => {
    const { logGroupNamePrefix: prefix, logGroupNamePattern: part, nextToken, limit = MAX_PAGE } = input;
    if (prefix !== undefined && part !== undefined) {
      throw new DomainError('INVALID', 'Only one of logGroupNamePrefix and logGroupNamePattern can be given.');
    }
    const groups = call.logs.groups({
      ...(prefix !== undefined && { prefix }),
      ...(part !== undefined && { part }),
      ...(nextToken !== undefined && { after: fromToken(nextToken) }),
      limit: limit + 1,
    });
    const page = groups.slice(0, limit);
    return {
      logGroups: page.map((group) => ({
        logGroupName: group.name,
        creationTime: group.createdAt,
        retentionInDays: group.retentionDays,
        metricFilterCount: 0,
        arn: `${groupArn(call, group.name)}:*`,
        logGroupArn: groupArn(call, group.name),
        logGroupClass: 'STANDARD',
        storedBytes: group.storedBytes,
      })),
      nextToken: groups.length > limit ? toToken(page.at(-1)?.name ?? '') : undefined,
    };
  }),
  CreateLogStream: behaviour('CreateLogStream', ({ logGroupName, logStreamName }, { logs }) => {
    logs.createStream(logGroupName, logStreamName);
    return {};
  }),
  DeleteLogStream: behaviour('DeleteLogStream', ({ logGroupName, logStreamName }, { logs }) => {
    logs.deleteStream(logGroupName, logStreamName);
    return {};
  }),
  DescribeLogStreams: behaviour('DescribeLogStreams', (input, call) => {
    const { orderBy = 'LogStreamName', descending = false, limit = MAX_PAGE, logStreamNamePrefix: prefix } = input;
    if (orderBy === 'LastEventTime' && prefix !== undefined) {
      throw new DomainError('INVALID', 'Cannot order by LastEventTime with a logStreamNamePrefix.');
    }
    const group = groupOf(input);
    const offset = input.nextToken === undefined ? 0 : Number(fromToken(input.nextToken));
    if (!Number.isSafeInteger(offset) || offset < 0) throw badToken();
    const streams = call.logs.streams(group, {
      orderBy: orderBy === 'LogStreamName' ? 'name' : 'lastEvent',
      descending,
      offset,
      limit: limit + 1,
      ...(prefix !== undefined && { prefix }),
    });
    return {
      logStreams: streams.slice(0, limit).map((stream) => ({
        logStreamName: stream.name,
        creationTime: stream.createdAt,
        firstEventTimestamp: stream.firstEventAt,
        lastEventTimestamp: stream.lastEventAt,
        lastIngestionTime: stream.lastIngestedAt,
        arn: `${groupArn(call, group)}:log-stream:${stream.name}`,
        storedBytes: stream.storedBytes,
      })),
      nextToken: streams.length > limit ? toToken(String(offset + limit)) : undefined,
    };
  }),
  PutLogEvents: behaviour('PutLogEvents', ({ logGroupName, logStreamName, logEvents }, { logs, clock }) => {
    for (const [index, { timestamp }] of logEvents.entries()) {
      if (timestamp < (logEvents[index - 1]?.timestamp ?? 0)) {
        const message = 'Log events in a single PutLogEvents request must be in chronological order.';
        throw new DomainError('INVALID', message);
      }
    }
    const now = clock.now();
    const firstTaken = logEvents.findIndex(({ timestamp }) => timestamp >= now - 14 * DAY_MS);
    const tooOld = firstTaken === -1 ? logEvents.length : firstTaken;
    const firstTooNew = logEvents.findIndex(({ timestamp }) => timestamp > now + 2 * HOUR_MS);
    const taken = logEvents.slice(tooOld, firstTooNew === -1 ? undefined : firstTooNew);
    logs.put(
      logGroupName,
      logStreamName,
      taken.map(({ timestamp, message }) => ({ at: timestamp, message })),
    );
    const rejected = {
      ...(tooOld > 0 && { tooOldLogEventEndIndex: tooOld }),
      ...(firstTooNew !== -1 && { tooNewLogEventStartIndex: firstTooNew }),
    };
    // Long without meaning, but older clients hand it on.
    return {
      nextSequenceToken: '0'.repeat(56),
      ...(taken.length < logEvents.length && { rejectedLogEventsInfo: rejected }),
    };
  }),
  GetLogEvents: behaviour('GetLogEvents', (input, { logs }) => {
    const { startTime, endTime, nextToken, limit = MAX_EVENTS, startFromHead = false } = input;
    const token = nextToken === undefined ? undefined : readEdge(nextToken);
    const events = logs.read(groupOf(input), input.logStreamName, {
      ...(startTime !== undefined && { from: startTime }),
      ...(endTime !== undefined && { to: endTime }),
      ...(token?.direction === 'f' && { after: token.position }),
      ...(token?.direction === 'b' && { before: token.position }),
      fromHead: startFromHead,
      limit,
    });
    // At an end the same token comes back, by which clients tell that they are there.
    const position = token?.position ?? NOWHERE;
    return {
      events: events.map(({ at, message, ingestedAt }) => ({ timestamp: at, message, ingestionTime: ingestedAt })),
      nextForwardToken: `f/${idOf(events.at(-1) ?? position)}/s`,
      nextBackwardToken: `b/${idOf(events[0] ?? position)}/s`,
    };
  }),
  FilterLogEvents: behaviour('FilterLogEvents', (input, { logs }) => {
    const { logStreamNames, logStreamNamePrefix, startTime, endTime, filterPattern, nextToken } = input;
    if (logStreamNames !== undefined && logStreamNamePrefix !== undefined) {
      throw new DomainError('INVALID', 'Only one of logStreamNames and logStreamNamePrefix can be given.');
    }
    const { events, next } = logs.filter(groupOf(input), {
      ...(logStreamNames !== undefined && { streams: logStreamNames }),
      ...(logStreamNamePrefix !== undefined && { streamPrefix: logStreamNamePrefix }),
      ...(startTime !== undefined && { from: startTime }),
      // Here, unlike in GetLogEvents, the end belongs to what is wanted.
      ...(endTime !== undefined && { to: endTime + 1 }),
      ...(filterPattern !== undefined && { pattern: filterPattern }),
      ...(nextToken !== undefined && { after: positionOf(fromToken(nextToken)) }),
      limit: input.limit ?? MAX_EVENTS,
    });
    return {
      events: events.map((event) => ({
        logStreamName: event.stream,
        timestamp: event.at,
        message: event.message,
        ingestionTime: event.ingestedAt,
        eventId: idOf(event),
      })),
      searchedLogStreams: [],
      nextToken: next === undefined ? undefined : toToken(idOf(next)),
    };
  }),
};

/** The ARNs that `input` is about. */
export function resourceOf(name: LogsOperation, input: unknown, scope: Scope): readonly string[] {
  const named = input as {
    readonly logGroupName?: string;
    readonly logGroupIdentifier?: string;
    readonly logGroupIdentifiers?: readonly string[];
    readonly logStreamName?: string;
  };
  if (name === 'DescribeLogGroups') return [`${groupArn(scope, '*')}`];
  if (named.logGroupIdentifiers !== undefined) {
    return named.logGroupIdentifiers.map((identifier) => `${groupArn(scope, nameOf(identifier))}:*`);
  }
  const group = groupArn(scope, groupOf(named));
  return [named.logStreamName === undefined ? `${group}:*` : `${group}:log-stream:${named.logStreamName}`];
}

/** @throws DomainError INVALID when it names none, or both */
function groupOf(input: { readonly logGroupName?: string; readonly logGroupIdentifier?: string }): string {
  const { logGroupName, logGroupIdentifier } = input;
  if ((logGroupName === undefined) === (logGroupIdentifier === undefined)) {
    throw new DomainError('INVALID', 'Exactly one of logGroupName and logGroupIdentifier must be given.');
  }
  return logGroupName ?? nameOf(logGroupIdentifier ?? '');
}

/** A group by name or ARN, the latter with or without `:*`. */
export function nameOf(identifier: string): string {
  return /^arn:[^:]*:logs:[^:]*:[^:]*:log-group:([^:]+)(:\*)?$/.exec(identifier)?.[1] ?? identifier;
}

export function groupArn({ region, account }: Scope, name: string): string {
  return `arn:aws:logs:${region}:${account}:log-group:${name}`;
}

const NOWHERE: Position = { at: 0, id: 0 };
const AT_DIGITS = 20;

/** 56 digits as the service has them; they sort like the events. */
function idOf({ at, id }: Position | LogEvent): string {
  return String(at).padStart(AT_DIGITS, '0') + String(id).padStart(56 - AT_DIGITS, '0');
}

function positionOf(digits: string): Position {
  if (!/^\d{56}$/.test(digits)) throw badToken();
  const position = { at: Number(digits.slice(0, AT_DIGITS)), id: Number(digits.slice(AT_DIGITS)) };
  if (!Number.isSafeInteger(position.at) || !Number.isSafeInteger(position.id)) throw badToken();
  return position;
}

function readEdge(token: string): { direction: string; position: Position } {
  const [, direction = '', digits = ''] = /^([fb])\/(\d{56})\/s$/.exec(token) ?? [];
  return { direction, position: positionOf(digits) };
}

function toToken(text: string): string {
  return Buffer.from(text).toString('base64url');
}

function fromToken(token: string): string {
  return Buffer.from(token, 'base64url').toString();
}

function badToken(): DomainError {
  return new DomainError('INVALID', 'The specified nextToken is invalid.');
}
