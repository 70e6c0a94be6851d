/** The object operations: bytes pass through, never gathered. */
import type { IncomingMessage } from 'node:http';
import { pipeline } from 'node:stream/promises';
import type { ObjectInfo } from '../../artifacts/index.ts';
import type { S3Call } from './call.ts';
import { CHECKSUM_HEADER } from './checksums.ts';
import { headerOf, readPayload } from './payload.ts';
import { S3Error } from './s3-error.ts';

/** Kept with the object and given back as they came. */
const KEPT_HEADERS = ['cache-control', 'content-disposition', 'content-encoding', 'content-language', 'expires'];
/** Spelt so that they replace what `objectHeaders` wrote. */
const WISHED: Readonly<Record<string, string>> = {
  'content-type': 'Content-Type',
  'content-language': 'content-language',
  'content-encoding': 'content-encoding',
  'content-disposition': 'content-disposition',
  'cache-control': 'cache-control',
  expires: 'expires',
};
const METADATA = 'x-amz-meta-';
const MAX_METADATA_BYTES = 2048;

export async function putObject({ request, store, bucket, key, signed, send }: S3Call): Promise<void> {
  const onlyIfAbsent = isOnlyIfAbsent(request);
  const payload = readPayload(request, signed);
  const info = await store.put(bucket, key, payload.body, {
    contentType: headerOf(request, 'content-type'),
    headers: keptHeaders(request),
    checksums: payload.checksums,
    onlyIfAbsent,
  });
  send(200, { ETag: etag(info), ...checksumHeaders(info) });
}

/** @throws S3Error `NotImplemented` for other preconditions of a write */
export function isOnlyIfAbsent(request: IncomingMessage): boolean {
  const ifNoneMatch = headerOf(request, 'if-none-match');
  if (headerOf(request, 'if-match') === undefined && (ifNoneMatch === undefined || ifNoneMatch === '*')) {
    return ifNoneMatch === '*';
  }
  throw new S3Error('NotImplemented', 'A write takes no other precondition than If-None-Match: *.');
}

export async function getObject(call: S3Call): Promise<void> {
  const { request, response, store, bucket, key } = call;
  await using object = await store.open(bucket, key);
  checkPreconditions(request, object.info);
  const { size } = object.info;
  const range = readRange(headerOf(request, 'range'), size);
  const headers = { ...objectHeaders(request, object.info, range !== undefined), ...wishedHeaders(call.query) };
  if (range === undefined) response.writeHead(200, { ...headers, 'Content-Length': size });
  else {
    const contentRange = `bytes ${range.start}-${range.end}/${size}`;
    response.writeHead(206, {
      ...headers,
      'Content-Range': contentRange,
      'Content-Length': range.end - range.start + 1,
    });
  }
  if (size === 0) response.end();
  else await pipeline(object.stream(range), response);
}

export async function headObject({ request, store, bucket, key, send }: S3Call): Promise<void> {
  const info = await store.head(bucket, key);
  checkPreconditions(request, info);
  send(200, { ...objectHeaders(request, info, false), 'Content-Length': info.size });
}

export async function deleteObject({ store, bucket, key, send }: S3Call): Promise<void> {
  await store.delete(bucket, key);
  send(204, {});
}

/** @throws S3Error `InvalidArgument` */
export function keptHeaders(request: IncomingMessage): Record<string, string> {
  const kept: Record<string, string> = {};
  let metadataBytes = 0;
  for (const [name, values = []] of Object.entries(request.headersDistinct)) {
    const value = name === 'content-encoding' ? withoutAwsChunked(values.join(', ')) : values.join(', ');
    if (name.startsWith(METADATA)) metadataBytes += name.length - METADATA.length + Buffer.byteLength(value);
    if (value !== '' && (name.startsWith(METADATA) || KEPT_HEADERS.includes(name))) kept[name] = value;
  }
  if (metadataBytes > MAX_METADATA_BYTES) {
    throw new S3Error('InvalidArgument', 'Your metadata headers exceed the maximum allowed metadata size');
  }
  return kept;
}

/** The framing of the request is no property of the object. */
function withoutAwsChunked(encoding: string): string {
  return encoding
    .split(',')
    .map((one) => one.trim())
    .filter((one) => one !== 'aws-chunked')
    .join(', ');
}

/** As it is written in headers and XML. */
export function etag(info: Pick<ObjectInfo, 'etag'>): string {
  return `"${info.etag}"`;
}

function checksumHeaders({ checksums }: Pick<ObjectInfo, 'checksums'>): Record<string, string> {
  const entries = Object.entries(checksums).map(([algorithm, value]) => [`${CHECKSUM_HEADER}${algorithm}`, value]);
  return entries.length === 0 ? {} : { ...Object.fromEntries(entries), 'x-amz-checksum-type': checksumType(checksums) };
}

/** Only a checksum over parts has a hyphen: base64 has none. */
export function checksumType(checksums: ObjectInfo['checksums']): 'COMPOSITE' | 'FULL_OBJECT' {
  return Object.values(checksums).some((value) => value.includes('-')) ? 'COMPOSITE' : 'FULL_OBJECT';
}

/** `response-content-type` and the like: what the reader wants to be told instead. */
function wishedHeaders(query: S3Call['query']): Record<string, string> {
  const wishes = [...query].filter(([name, value]) => name.startsWith('response-') && isHeaderText(value));
  const named = wishes.map(([name, value]) => [WISHED[name.slice('response-'.length)], value]);
  return Object.fromEntries(named.filter(([name]) => name !== undefined));
}

/** What would end the header or is no text is no wish. */
function isHeaderText(value: string): boolean {
  return /^[\x20-\x7e]+$/.test(value);
}

function objectHeaders(request: IncomingMessage, info: ObjectInfo, isPart: boolean): Record<string, string> {
  // A checksum of the whole would not fit a part, and clients would compare it.
  const wantsChecksums = headerOf(request, 'x-amz-checksum-mode')?.toUpperCase() === 'ENABLED' && !isPart;
  return {
    ...info.headers,
    ...(wantsChecksums ? checksumHeaders(info) : {}),
    'Accept-Ranges': 'bytes',
    'Content-Type': info.contentType,
    ETag: etag(info),
    'Last-Modified': new Date(info.modifiedAt).toUTCString(),
  };
}

function checkPreconditions(request: IncomingMessage, info: ObjectInfo): void {
  const names = (header: string | undefined) => header?.split(',').map((name) => name.trim());
  const matches = (list: readonly string[]) => list.some((name) => name === '*' || name === etag(info));
  const ifMatch = names(headerOf(request, 'if-match'));
  if (ifMatch !== undefined && !matches(ifMatch)) {
    throw new S3Error('PreconditionFailed', 'At least one of the pre-conditions you specified did not hold');
  }
  const ifNoneMatch = names(headerOf(request, 'if-none-match'));
  if (ifNoneMatch !== undefined && matches(ifNoneMatch)) throw new S3Error('NotModified', 'Not Modified');
}

/** One range of bytes; what is no single range is ignored, as S3 does. @throws S3Error `InvalidRange` */
function readRange(header: string | undefined, size: number): { start: number; end: number } | undefined {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '');
  if (match === null) return undefined;
  const [, first = '', last = ''] = match;
  if (first === '' && last === '') return undefined;
  const start = first === '' ? Math.max(0, size - Number(last)) : Number(first);
  const end = first === '' || last === '' ? size - 1 : Math.min(Number(last), size - 1);
  if (last !== '' && first !== '' && Number(first) > Number(last)) return undefined;
  if (start >= size) throw new S3Error('InvalidRange', 'The requested range is not satisfiable');
  return { start, end };
}
