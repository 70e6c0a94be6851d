/** ListObjectsV2. */
import type { ListPosition } from '../../artifacts/index.ts';
import { encodeStrict } from '../sigv4.ts';
import type { S3Call } from './call.ts';
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
  for (const { key, modifiedAt, md5, size } of objects) {
    parts.push(
      element('Contents', [
        element('Key', shown(key)),
        element('LastModified', new Date(modifiedAt).toISOString()),
        element('ETag', `"${md5}"`),
        element('Size', size),
        element('StorageClass', 'STANDARD'),
      ]),
    );
  }
  for (const common of commonPrefixes) parts.push(element('CommonPrefixes', [element('Prefix', shown(common))]));
  send(200, {}, xmlDocument('ListBucketResult', parts, S3_NAMESPACE));
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
