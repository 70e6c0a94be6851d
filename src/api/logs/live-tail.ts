/** StartLiveTail: what arrives in groups, as an event stream of one update a second, for as long as the client listens. */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { crc32 } from 'node:zlib';
import { sleep } from '../../lib/index.ts';
import type { TailEvent } from '../../logs/index.ts';
import { type LogsCall, nameOf } from './behaviours.ts';

interface Input {
  readonly logGroupIdentifiers: readonly string[];
  readonly logStreamNames?: readonly string[];
  readonly logStreamNamePrefixes?: readonly string[];
  readonly logEventFilterPattern?: string;
}

const UPDATE_MS = 1000;
/** The service ends a session then. */
const SESSION_MS = 3 * 3_600_000;
const MAX_EVENTS_PER_UPDATE = 500;
const STRING_HEADER = 7;

/** Resolves when the session is over. @throws DomainError before anything was sent */
export async function sendLiveTail(response: ServerResponse, input: unknown, call: LogsCall): Promise<void> {
  const { logGroupIdentifiers, logStreamNames, logStreamNamePrefixes, logEventFilterPattern } = input as Input;
  const groups = logGroupIdentifiers.map(nameOf);
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  using _end = call.clock.after(SESSION_MS, () => gone.abort());
  const batches = call.logs.tail(groups, {
    ...(logStreamNames !== undefined && { streams: logStreamNames }),
    ...(logStreamNamePrefixes !== undefined && { streamPrefixes: logStreamNamePrefixes }),
    ...(logEventFilterPattern !== undefined && { pattern: logEventFilterPattern }),
    signal: gone.signal,
  });
  response.writeHead(200, { 'Content-Type': 'application/vnd.amazon.eventstream' });
  const send = async (type: string, body: object) => {
    if (!response.write(encodeEvent(type, body))) await once(response, 'drain', { signal: gone.signal });
  };
  const waiting: TailEvent[] = [];
  const reading = (async () => {
    for await (const batch of batches) waiting.push(...batch.slice(0, MAX_EVENTS_PER_UPDATE - waiting.length));
  })();
  try {
    await send('initial-response', {});
    await send('sessionStart', {
      logGroupIdentifiers,
      logStreamNames: logStreamNames ?? [],
      logStreamNamePrefixes: logStreamNamePrefixes ?? [],
      logEventFilterPattern: logEventFilterPattern ?? '',
    });
    while (!gone.signal.aborted) {
      const events = waiting.splice(0);
      await send('sessionUpdate', {
        sessionMetadata: { sampled: events.length === MAX_EVENTS_PER_UPDATE },
        sessionResults: events.map((event) => ({
          logGroupIdentifier: `${call.account}:${event.group}`,
          logStreamName: event.stream,
          message: event.message,
          timestamp: event.at,
          ingestionTime: event.ingestedAt,
        })),
      });
      await sleep(UPDATE_MS, { signal: gone.signal });
    }
  } catch (error) {
    if (!gone.signal.aborted) throw error;
  } finally {
    gone.abort();
    await reading;
    response.end();
  }
}

/** One message of the event stream encoding: lengths, headers, payload, each guarded by a CRC-32. */
export function encodeEvent(type: string, body: object): Buffer {
  const payload = Buffer.from(JSON.stringify(body));
  const headers = Buffer.concat([
    header(':message-type', 'event'),
    header(':event-type', type),
    header(':content-type', 'application/x-amz-json-1.1'),
  ]);
  const message = Buffer.alloc(12 + headers.length + payload.length + 4);
  message.writeUInt32BE(message.length, 0);
  message.writeUInt32BE(headers.length, 4);
  message.writeUInt32BE(crc32(message.subarray(0, 8)), 8);
  headers.copy(message, 12);
  payload.copy(message, 12 + headers.length);
  message.writeUInt32BE(crc32(message.subarray(0, -4)), message.length - 4);
  return message;
}

function header(name: string, value: string): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(Buffer.byteLength(value));
  return Buffer.concat([
    Buffer.from([name.length]),
    Buffer.from(name),
    Buffer.from([STRING_HEADER]),
    length,
    Buffer.from(value),
  ]);
}
