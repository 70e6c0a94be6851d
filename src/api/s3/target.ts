/** What an S3 request is about: bucket and key from the path, the operation from method and query. */
import type { IncomingMessage } from 'node:http';
import { queryPairs, splitTarget } from '../sigv4.ts';
import { headerOf } from './payload.ts';
import { S3Error } from './s3-error.ts';

export interface S3Target {
  /** Absent for the list of buckets. */
  readonly bucket: string | undefined;
  /** Absent for the bucket itself. */
  readonly key: string | undefined;
  readonly query: ReadonlyMap<string, string>;
}

export type S3Operation =
  | 'ListBuckets'
  | 'CreateBucket'
  | 'HeadBucket'
  | 'DeleteBucket'
  | 'GetBucketLocation'
  | 'ListObjectsV2'
  | 'PutObject'
  | 'GetObject'
  | 'HeadObject'
  | 'DeleteObject';

/** Path style only: the endpoint is an address, so a bucket cannot be part of its name. @throws S3Error `InvalidURI` */
export function readTarget(request: IncomingMessage): S3Target {
  const { path, query } = splitTarget(request.url ?? '/');
  const at = path.indexOf('/', 1);
  const bucket = path.slice(1, at < 0 ? undefined : at);
  const key = at < 0 ? '' : path.slice(at + 1);
  try {
    return {
      bucket: bucket === '' ? undefined : decodeURIComponent(bucket),
      key: key === '' ? undefined : decodeURIComponent(key),
      query: new Map(queryPairs(query)),
    };
  } catch {
    throw new S3Error('InvalidURI', "Couldn't parse the specified URI.");
  }
}

/** Query parameters that do not make another operation of the request. */
const HARMLESS =
  /^(x-id|X-Amz-.*|list-type|prefix|delimiter|max-keys|continuation-token|start-after|encoding-type|fetch-owner|max-buckets|bucket-region)$/i;

/** Headers that would change what the operation means; ignoring them would be worse than refusing. */
const UNSUPPORTED_HEADERS = [
  'x-amz-copy-source',
  'x-amz-server-side-encryption-customer-key',
  'x-amz-write-offset-bytes',
];

/** @throws S3Error `NotImplemented`, `MethodNotAllowed` */
export function detectOperation(request: IncomingMessage, { bucket, key, query }: S3Target): S3Operation {
  const { method = '' } = request;
  const isLocation = method === 'GET' && bucket !== undefined && key === undefined && query.has('location');
  if (isLocation) return 'GetBucketLocation';
  const other = [...query.keys()].find((name) => !HARMLESS.test(name));
  if (other !== undefined) throw notImplemented(`the query parameter '${other}'`);
  const header = UNSUPPORTED_HEADERS.find((name) => headerOf(request, name) !== undefined);
  if (header !== undefined) throw notImplemented(`the header '${header}'`);

  if (bucket === undefined) {
    if (method === 'GET') return 'ListBuckets';
  } else if (key === undefined) {
    if (method === 'PUT') return 'CreateBucket';
    if (method === 'HEAD') return 'HeadBucket';
    if (method === 'DELETE') return 'DeleteBucket';
    if (method === 'GET' && query.get('list-type') === '2') return 'ListObjectsV2';
    if (method === 'GET') throw notImplemented('the first version of ListObjects; ListObjectsV2 is there');
  } else {
    if (method === 'PUT') return 'PutObject';
    if (method === 'GET') return 'GetObject';
    if (method === 'HEAD') return 'HeadObject';
    if (method === 'DELETE') return 'DeleteObject';
  }
  throw new S3Error('MethodNotAllowed', 'The specified method is not allowed against this resource.');
}

function notImplemented(what: string): S3Error {
  return new S3Error('NotImplemented', `This object store does not implement ${what}.`);
}

/** The ARN a request is authorised on. */
export function targetArn({ bucket, key }: S3Target): string {
  if (bucket === undefined) return '*';
  return `arn:aws:s3:::${bucket}${key === undefined ? '' : `/${key}`}`;
}
