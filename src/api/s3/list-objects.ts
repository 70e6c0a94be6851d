/** ListObjects, both versions. */
import type { ListPosition, ListResult } from '../../artifacts/index.ts';
import { encodeStrict } from '../sigv4.ts';
import type { S3Call } from './call.ts';
import { etag } from './objects.ts';
import { S3Error } from './s3-error.ts';
import { element, S3_NAMESPACE, type Xml, xmlDocument } from './xml.ts';

const MAX_KEYS = 1000;

export async function listObjectsV2({ store, bucket, query, send }: S3Call): Promise<void> {
  const prefix = query.get('prefix') ?? '';
  const delimiter = query.get('delimiter') ?? '';
  const limit = readMaxKeys(query.get('max-keys'));
  const token = query.get('continuation-token');
  const startAfter = query.get('start-after');
  const after = token === undefined ? startPosition(startAfter) : openToken(token);
  const isEncoded = readEncoding(query.get('encoding-type'));
  const shown = (text: string) => (isEncoded ? encodeStrict(text).replaceAll('%2F', '/') : text);

  const { objects, commonPrefixes, next } = await store.list(bucket, { prefix, delimiter, after, limit });
  const parts: Xml[] = [
    element('Name', bucket),
    element('Prefix', shown(prefix)),
    element('KeyCount', objects.length + commonPrefixes.length),
    element('MaxKeys', limit),
    element('IsTruncated', next !== undefined),
  ];
  if (delimiter !== '') parts.push(element('Delimiter', shown(delimiter)));
  if (isEncoded) parts.push(element('EncodingType', 'url'));
  if (startAfter !== undefined) parts.push(element('StartAfter', shown(startAfter)));
  if (token !== undefined) parts.push(element('ContinuationToken', token));
  if (next !== undefined) parts.push(element('NextContinuationToken', sealToken(next)));
  parts.push(...found({ objects, commonPrefixes }, shown, query.get('fetch-owner') === 'true'));
  send(200, {}, xmlDocument('ListBucketResult', parts, S3_NAMESPACE));
}

/** The first version: `marker` is a name, and a common prefix as marker stands for everything below it. */
export async function listObjects({ store, bucket, query, send }: S3Call): Promise<void> {
  const prefix = query.get('prefix') ?? '';
  const delimiter = query.get('delimiter') ?? '';
  const limit = readMaxKeys(query.get('max-keys'));
  const marker = query.get('marker') ?? '';
  const isEncoded = readEncoding(query.get('encoding-type'));
  const shown = (text: string) => (isEncoded ? encodeStrict(text).replaceAll('%2F', '/') : text);
  const after = marker === '' ? undefined : { name: marker, isPrefix: delimiter !== '' && marker.endsWith(delimiter) };

  const { objects, commonPrefixes, next } = await store.list(bucket, { prefix, delimiter, after, limit });
  const parts: Xml[] = [
    element('Name', bucket),
    element('Prefix', shown(prefix)),
    element('Marker', shown(marker)),
    element('MaxKeys', limit),
    element('IsTruncated', next !== undefined),
  ];
  if (delimiter !== '') parts.push(element('Delimiter', shown(delimiter)));
  if (isEncoded) parts.push(element('EncodingType', 'url'));
  // Without a delimiter clients go on from the last key.
  if (next !== undefined && delimiter !== '') parts.push(element('NextMarker', shown(next.name)));
  parts.push(...found({ objects, commonPrefixes }, shown, true));
  send(200, {}, xmlDocument('ListBucketResult', parts, S3_NAMESPACE));
}

function found(
  { objects, commonPrefixes }: Pick<ListResult, 'objects' | 'commonPrefixes'>,
  shown: (text: string) => string,
  withOwner: boolean,
): Xml[] {
  const owner = element('Owner', [element('ID', 'rekindle'), element('DisplayName', 'rekindle')]);
  const contents = objects.map((info) =>
    element('Contents', [
      element('Key', shown(info.key)),
      element('LastModified', new Date(info.modifiedAt).toISOString()),
      element('ETag', etag(info)),
      element('Size', info.size),
      ...(withOwner ? [owner] : []),
      element('StorageClass', 'STANDARD'),
    ]),
  );
  return [
    ...contents,
    ...commonPrefixes.map((common) => element('CommonPrefixes', [element('Prefix', shown(common))])),
  ];
}

function readMaxKeys(text: string | undefined): number {
  if (text === undefined || text === '') return MAX_KEYS;
  if (!/^\d{1,10}$/.test(text)) throw new S3Error('InvalidArgument', 'max-keys must be a number of 0 or more.');
  return Math.min(Number(text), MAX_KEYS);
}

function readEncoding(text: string | undefined): boolean {
  if (text === undefined || text === '') return false;
  if (text !== 'url') throw new S3Error('InvalidArgument', 'Invalid Encoding Method specified in Request');
  return true;
}

function startPosition(startAfter: string | undefined): ListPosition | undefined {
  return startAfter === undefined ? undefined : { name: startAfter, isPrefix: false };
}

function sealToken(position: ListPosition): string {
  return Buffer.from(JSON.stringify([position.name, position.isPrefix])).toString('base64url');
}

/** A made-up token can name nothing that the caller could not ask for with start-after. */
function openToken(token: string): ListPosition {
  try {
    const [name, isPrefix] = JSON.parse(Buffer.from(token, 'base64url').toString()) as unknown[];
    if (typeof name === 'string' && typeof isPrefix === 'boolean') return { name, isPrefix };
  } catch {
    // Falls through to the refusal.
  }
  throw new S3Error('InvalidArgument', 'The continuation token provided is incorrect');
}
