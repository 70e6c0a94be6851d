/**
 * The wire of CloudWatch Logs (2014-03-28) as far as it is spoken here: awsJson1.1, one path, the operation in `X-Amz-Target`.
 *
 * After the public API reference (members, limits, patterns); members that make no sense here (encryption keys, classes,
 * entities) are left out, and ignored when they are sent.
 */
import {
  boolean,
  integer,
  list,
  long,
  type Members,
  map,
  oneOf,
  optional,
  required,
  string,
  structure,
} from './shape.ts';

export const SIGNING_NAME = 'logs';
export const TARGET_PREFIX = 'Logs_20140328.';

const groupName = string({ min: 1, max: 512, pattern: '[\\.\\-_/#A-Za-z0-9]+' });
const groupIdentifier = string({ min: 1, max: 2048, pattern: '[\\w#+=/:,.@-]*' });
const streamName = string({ min: 1, max: 512, pattern: '[^:*]*' });
const nextToken = string({ min: 1 });
const instant = long({ min: 0 });
const pageLimit = integer({ min: 1, max: 50 });
const eventsLimit = integer({ min: 1, max: 10_000 });
const filterPattern = string({ min: 0, max: 1024 });
const text = string({});
const days = integer();

const onGroup = { logGroupName: required(groupName) } as const;
const onStream = { logGroupName: required(groupName), logStreamName: required(streamName) } as const;
/** By name, or by name or ARN. */
const onEitherGroup = { logGroupName: optional(groupName), logGroupIdentifier: optional(groupIdentifier) } as const;

export const operations = {
  CreateLogGroup: { input: { ...onGroup, tags: optional(map(text, text)) }, output: {} },
  DeleteLogGroup: { input: onGroup, output: {} },
  PutRetentionPolicy: { input: { ...onGroup, retentionInDays: required(days) }, output: {} },
  DeleteRetentionPolicy: { input: onGroup, output: {} },
  DescribeLogGroups: {
    input: {
      logGroupNamePrefix: optional(groupName),
      logGroupNamePattern: optional(string({ min: 0, max: 512, pattern: '[\\.\\-_/#A-Za-z0-9]*' })),
      nextToken: optional(nextToken),
      limit: optional(pageLimit),
    },
    output: {
      logGroups: optional(
        list(
          structure({
            logGroupName: optional(text),
            creationTime: optional(instant),
            retentionInDays: optional(days),
            metricFilterCount: optional(integer()),
            arn: optional(text),
            logGroupArn: optional(text),
            logGroupClass: optional(text),
            storedBytes: optional(long()),
          }),
        ),
      ),
      nextToken: optional(text),
    },
  },
  CreateLogStream: { input: onStream, output: {} },
  DeleteLogStream: { input: onStream, output: {} },
  DescribeLogStreams: {
    input: {
      ...onEitherGroup,
      logStreamNamePrefix: optional(streamName),
      orderBy: optional(oneOf('LogStreamName', 'LastEventTime')),
      descending: optional(boolean),
      nextToken: optional(nextToken),
      limit: optional(pageLimit),
    },
    output: {
      logStreams: optional(
        list(
          structure({
            logStreamName: optional(text),
            creationTime: optional(instant),
            firstEventTimestamp: optional(instant),
            lastEventTimestamp: optional(instant),
            lastIngestionTime: optional(instant),
            arn: optional(text),
            storedBytes: optional(long()),
          }),
        ),
      ),
      nextToken: optional(text),
    },
  },
  PutLogEvents: {
    input: {
      ...onStream,
      logEvents: required(
        list(structure({ timestamp: required(instant), message: required(string({ min: 1 })) }), {
          min: 1,
          max: 10_000,
        }),
      ),
      sequenceToken: optional(string({ min: 1 })),
    },
    output: {
      nextSequenceToken: optional(text),
      rejectedLogEventsInfo: optional(
        structure({
          tooNewLogEventStartIndex: optional(integer()),
          tooOldLogEventEndIndex: optional(integer()),
        }),
      ),
    },
  },
  GetLogEvents: {
    input: {
      ...onEitherGroup,
      logStreamName: required(streamName),
      startTime: optional(instant),
      endTime: optional(instant),
      nextToken: optional(nextToken),
      limit: optional(eventsLimit),
      startFromHead: optional(boolean),
    },
    output: {
      events: optional(
        list(structure({ timestamp: optional(instant), message: optional(text), ingestionTime: optional(instant) })),
      ),
      nextForwardToken: optional(text),
      nextBackwardToken: optional(text),
    },
  },
  FilterLogEvents: {
    input: {
      ...onEitherGroup,
      logStreamNames: optional(list(streamName, { min: 1, max: 100 })),
      logStreamNamePrefix: optional(streamName),
      startTime: optional(instant),
      endTime: optional(instant),
      filterPattern: optional(filterPattern),
      nextToken: optional(nextToken),
      limit: optional(eventsLimit),
      interleaved: optional(boolean),
    },
    output: {
      events: optional(
        list(
          structure({
            logStreamName: optional(text),
            timestamp: optional(instant),
            message: optional(text),
            ingestionTime: optional(instant),
            eventId: optional(text),
          }),
        ),
      ),
      searchedLogStreams: optional(list(structure({}))),
      nextToken: optional(text),
    },
  },
  StartLiveTail: {
    input: {
      logGroupIdentifiers: required(list(groupIdentifier, { min: 1, max: 10 })),
      logStreamNames: optional(list(streamName, { min: 1, max: 10 })),
      logStreamNamePrefixes: optional(list(streamName, { min: 1, max: 10 })),
      logEventFilterPattern: optional(filterPattern),
    },
    output: {},
  },
} as const satisfies Record<string, { input: Members; output: Members }>;

/** What a group may be kept for; the service takes no other numbers. */
export const RETENTION_DAYS: readonly number[] = [
  1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653,
];
