/** CopyObject and UploadPartCopy: bytes go from object to object here, streaming. */
import type { IncomingMessage } from 'node:http';
import type { ObjectInfo, OpenObject } from '../../artifacts/index.ts';
import type { S3Call } from './call.ts';
import { BodySums, CHECKSUM_ALGORITHMS, type ChecksumAlgorithm, readAlgorithm } from './checksums.ts';
import { checksumType, etag, isOnlyIfAbsent, keptHeaders } from './objects.ts';
import { headerOf } from './payload.ts';
import { S3Error } from './s3-error.ts';
import { element, S3_NAMESPACE, type Xml, xmlDocument } from './xml.ts';

export async function copyObject(call: S3Call): Promise<void> {
  const { request, store, bucket, key, send } = call;
  const source = readSource(call);
  const isReplacing = readDirective(request) === 'REPLACE';
  if (source.bucket === bucket && source.key === key && !isReplacing) {
    throw new S3Error(
      'InvalidRequest',
      "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.",
    );
  }
  const onlyIfAbsent = isOnlyIfAbsent(request);
  await using from = await store.open(source.bucket, source.key);
  checkSourcePreconditions(request, from.info);
  const asked = headerOf(request, 'x-amz-checksum-algorithm');
  const computed = asked === undefined ? algorithmOf(from.info) : readAlgorithm(asked);
  const { body, checksums } = copied(from, undefined, computed);
  const info = await store.put(bucket, key, body, {
    contentType: isReplacing ? headerOf(request, 'content-type') : from.info.contentType,
    headers: isReplacing ? keptHeaders(request) : from.info.headers,
    checksums,
    onlyIfAbsent,
  });
  send(200, {}, xmlDocument('CopyObjectResult', resultOf(info), S3_NAMESPACE));
}

export async function uploadPartCopy(call: S3Call, partNumber: number): Promise<void> {
  const { request, store, bucket, key, query, send } = call;
  const uploadId = query.get('uploadId') ?? '';
  const source = readSource(call);
  const { checksum } = await store.uploads.find(bucket, key, uploadId);
  await using from = await store.open(source.bucket, source.key);
  checkSourcePreconditions(request, from.info);
  const range = readSourceRange(headerOf(request, 'x-amz-copy-source-range'), from.info.size);
  const { body, checksums } = copied(from, range, checksum && readAlgorithm(checksum.algorithm));
  const part = await store.uploads.putPart({ bucket, key, uploadId, partNumber }, body, checksums);
  send(200, {}, xmlDocument('CopyPartResult', resultOf(part), S3_NAMESPACE));
}

/** The XML of checksums: `<ChecksumCRC32>…`. */
export function checksumElements(checksums: ObjectInfo['checksums']): Xml[] {
  return Object.entries(checksums).map(([algorithm, value]) => element(`Checksum${algorithm.toUpperCase()}`, value));
}

function resultOf(info: Pick<ObjectInfo, 'etag' | 'modifiedAt' | 'checksums'>): Xml[] {
  return [
    element('LastModified', new Date(info.modifiedAt).toISOString()),
    element('ETag', etag(info)),
    ...checksumElements(info.checksums),
    ...(Object.keys(info.checksums).length === 0 ? [] : [element('ChecksumType', checksumType(info.checksums))]),
  ];
}

/** `<bucket>/<key>`, percent-encoded, with or without a slash in front. @throws S3Error `InvalidArgument`, `AccessDenied` */
function readSource(call: S3Call): { bucket: string; key: string } {
  const header = headerOf(call.request, 'x-amz-copy-source') ?? '';
  const [path = '', version] = header.split('?versionId=');
  if (version !== undefined && version !== 'null') {
    throw new S3Error('NotImplemented', 'This object store keeps no versions.');
  }
  const [, bucket = '', encoded = ''] = /^\/?([^/]+)\/(.+)$/s.exec(decode(path)) ?? [];
  if (encoded === '') {
    throw new S3Error('InvalidArgument', 'Copy Source must mention the source bucket and key: sourcebucket/sourcekey');
  }
  if (!call.isAllowed('s3:GetObject', { bucket, key: encoded })) throw new S3Error('AccessDenied', 'Access Denied');
  return { bucket, key: encoded };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new S3Error('InvalidArgument', 'The copy source is not properly percent-encoded.');
  }
}

function readDirective(request: IncomingMessage): 'COPY' | 'REPLACE' {
  const directive = headerOf(request, 'x-amz-metadata-directive') ?? 'COPY';
  if (directive === 'COPY' || directive === 'REPLACE') return directive;
  throw new S3Error('InvalidArgument', 'Unknown metadata directive.');
}

function checkSourcePreconditions(request: IncomingMessage, info: ObjectInfo): void {
  const time = (name: string) => {
    const at = Date.parse(headerOf(request, name) ?? '');
    return Number.isNaN(at) ? undefined : at;
  };
  const names = (name: string) =>
    headerOf(request, name)
      ?.split(',')
      .map((one) => one.trim().replaceAll('"', ''));
  const seconds = Math.floor(info.modifiedAt / 1000) * 1000;
  const ifMatch = names('x-amz-copy-source-if-match');
  const ifNoneMatch = names('x-amz-copy-source-if-none-match');
  const modifiedSince = time('x-amz-copy-source-if-modified-since');
  const unmodifiedSince = time('x-amz-copy-source-if-unmodified-since');
  const isBroken =
    (ifMatch !== undefined && !ifMatch.includes(info.etag) && !ifMatch.includes('*')) ||
    (ifMatch === undefined && unmodifiedSince !== undefined && seconds > unmodifiedSince) ||
    (ifNoneMatch !== undefined && (ifNoneMatch.includes(info.etag) || ifNoneMatch.includes('*'))) ||
    (ifNoneMatch === undefined && modifiedSince !== undefined && seconds <= modifiedSince);
  if (isBroken) {
    throw new S3Error('PreconditionFailed', 'At least one of the pre-conditions you specified did not hold');
  }
}

/** @throws S3Error `InvalidArgument`, `InvalidRange` */
function readSourceRange(header: string | undefined, size: number): { start: number; end: number } | undefined {
  if (header === undefined) return undefined;
  const [, start, end] = /^bytes=(\d{1,15})-(\d{1,15})$/.exec(header) ?? [];
  if (start === undefined || end === undefined || Number(start) > Number(end)) {
    throw new S3Error('InvalidArgument', 'The x-amz-copy-source-range value must be of the form bytes=first-last.');
  }
  if (Number(end) >= size) {
    throw new S3Error('InvalidArgument', `Range specified is not valid for source object of size: ${size}`);
  }
  return { start: Number(start), end: Number(end) };
}

/** A copy has the kind of checksum its source has, over its own bytes. */
function algorithmOf({ checksums }: ObjectInfo): ChecksumAlgorithm | undefined {
  return CHECKSUM_ALGORITHMS.find((algorithm) => checksums[algorithm] !== undefined);
}

function copied(
  from: OpenObject,
  range: { start: number; end: number } | undefined,
  computed: ChecksumAlgorithm | undefined,
): { body: AsyncIterable<Buffer>; checksums: () => Readonly<Record<string, string>> } {
  const sums = new BodySums({ md5: undefined, checksums: new Map(), computed });
  async function* body(): AsyncGenerator<Buffer> {
    if (from.info.size === 0) return;
    const stream: AsyncIterable<Buffer> = from.stream(range);
    for await (const chunk of stream) {
      sums.update(chunk);
      yield chunk;
    }
    sums.finish(new Map());
  }
  return { body: body(), checksums: () => sums.verified };
}
