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
  | 'ListObjects'
  | 'ListObjectsV2'
  | 'ListMultipartUploads'
  | 'DeleteObjects'
  | 'PutObject'
  | 'CopyObject'
  | 'GetObject'
  | 'HeadObject'
  | 'DeleteObject'
  | 'CreateMultipartUpload'
  | 'UploadPart'
  | 'ListParts'
  | 'CompleteMultipartUpload'
  | 'AbortMultipartUpload';

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
  /^(x-id|X-Amz-.*|list-type|prefix|delimiter|max-keys|marker|continuation-token|start-after|encoding-type|fetch-owner|max-buckets|bucket-region|response-.*|AWSAccessKeyId|Signature|Expires)$/i;

/** Operations told by a query parameter of their own, with the further parameters each takes. */
const BY_QUERY: readonly {
  readonly on: 'bucket' | 'key';
  readonly method: string;
  readonly needs: readonly string[];
  readonly takes?: readonly string[];
  readonly operation: S3Operation;
}[] = [
  { on: 'bucket', method: 'GET', needs: ['location'], operation: 'GetBucketLocation' },
  { on: 'bucket', method: 'POST', needs: ['delete'], operation: 'DeleteObjects' },
  {
    on: 'bucket',
    method: 'GET',
    needs: ['uploads'],
    takes: ['key-marker', 'upload-id-marker', 'max-uploads'],
    operation: 'ListMultipartUploads',
  },
  { on: 'key', method: 'POST', needs: ['uploads'], operation: 'CreateMultipartUpload' },
  { on: 'key', method: 'POST', needs: ['uploadId'], operation: 'CompleteMultipartUpload' },
  { on: 'key', method: 'PUT', needs: ['uploadId', 'partNumber'], operation: 'UploadPart' },
  { on: 'key', method: 'DELETE', needs: ['uploadId'], operation: 'AbortMultipartUpload' },
  {
    on: 'key',
    method: 'GET',
    needs: ['uploadId'],
    takes: ['part-number-marker', 'max-parts'],
    operation: 'ListParts',
  },
];

/** Headers that would change what the operation means; ignoring them would be worse than refusing. */
const UNSUPPORTED_HEADERS = [
  'x-amz-copy-source-server-side-encryption-customer-key',
  'x-amz-server-side-encryption-customer-key',
  'x-amz-write-offset-bytes',
];

/** @throws S3Error `NotImplemented`, `MethodNotAllowed` */
export function detectOperation(request: IncomingMessage, { bucket, key, query }: S3Target): S3Operation {
  const { method = '' } = request;
  const on = key === undefined ? 'bucket' : 'key';
  const special =
    bucket === undefined
      ? undefined
      : BY_QUERY.find(
          (one) => one.on === on && one.method === method && one.needs.every((parameter) => query.has(parameter)),
        );
  const known = [...(special?.needs ?? []), ...(special?.takes ?? [])];
  const other = [...query.keys()].find((name) => !HARMLESS.test(name) && !known.includes(name));
  if (other !== undefined) throw notImplemented(`the query parameter '${other}'`);
  const header = UNSUPPORTED_HEADERS.find((name) => headerOf(request, name) !== undefined);
  if (header !== undefined) throw notImplemented(`the header '${header}'`);
  const isCopy = headerOf(request, 'x-amz-copy-source') !== undefined;
  if (isCopy && !(method === 'PUT' && key !== undefined)) throw notImplemented("the header 'x-amz-copy-source' here");
  if (special !== undefined) return special.operation;

  if (bucket === undefined) {
    if (method === 'GET') return 'ListBuckets';
  } else if (key === undefined) {
    if (method === 'PUT') return 'CreateBucket';
    if (method === 'HEAD') return 'HeadBucket';
    if (method === 'DELETE') return 'DeleteBucket';
    if (method === 'GET' && query.get('list-type') === '2') return 'ListObjectsV2';
    if (method === 'GET') return 'ListObjects';
  } else {
    if (method === 'PUT') return isCopy ? 'CopyObject' : 'PutObject';
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
export function targetArn({ bucket, key }: Pick<S3Target, 'bucket' | 'key'>): string {
  if (bucket === undefined) return '*';
  return `arn:aws:s3:::${bucket}${key === undefined ? '' : `/${key}`}`;
}
