/**
 * Artifacts out of another object store that speaks S3: read by the official client, into a file that has no name any more.
 *
 * Invariant: what was fetched is bounded in size and time, and leaves nothing on disk once it is disposed of or this process
 * has ended.
 */
import { type FileHandle, mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Ids, messageOf } from '../lib/index.ts';
import { ArtifactError } from './errors.ts';
import { MAX_PIECE_BYTES } from './object-body.ts';
import type { ArtifactUri } from './uri.ts';

export interface ExternalStoreOptions {
  /** `http://…` or `https://…`, buckets in the path. */
  readonly endpoint: string;
  readonly region: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Folder for what is being fetched, made when absent. */
  readonly dir: string;
}

const CONNECT_TIMEOUT_MS = 10_000;
/** For a whole artifact. */
const FETCH_TIMEOUT_MS = 10 * 60_000;

/**
 * Fetches an object; the caller owns the handle.
 * @throws ArtifactError `no-such-bucket`, `no-such-key`, `store-denied`, `store-unreachable`, `object-too-large`
 */
export async function fetchExternal(
  { bucket, key }: ArtifactUri,
  options: ExternalStoreOptions & { ids: Ids },
): Promise<{ handle: FileHandle; size: number }> {
  // Most servers never need the client, and loading it costs a third of their start.
  const { GetObjectCommand, S3Client } = await import('@aws-sdk/client-s3');
  const { endpoint, region, accessKeyId, secretAccessKey, dir, ids } = options;
  await using stack = new AsyncDisposableStack();
  const client = new S3Client({
    endpoint,
    region,
    credentials: { accessKeyId, secretAccessKey },
    forcePathStyle: true,
    requestHandler: { connectionTimeout: CONNECT_TIMEOUT_MS },
  });
  stack.defer(() => client.destroy());
  await mkdir(dir, { recursive: true });
  const path = join(dir, ids.uuid());
  const handle = await open(path, 'wx+', 0o600);
  const owned = new AsyncDisposableStack();
  owned.defer(() => handle.close());
  try {
    await rm(path);
    const abortSignal = AbortSignal.timeout(FETCH_TIMEOUT_MS);
    const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key }), { abortSignal });
    let size = 0;
    for await (const chunk of (Body ?? []) as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > MAX_PIECE_BYTES) {
        throw new ArtifactError('object-too-large', `An artifact has at most ${MAX_PIECE_BYTES} bytes.`);
      }
      await handle.appendFile(chunk);
    }
    owned.move();
    return { handle, size };
  } catch (error) {
    throw refusal(error, bucket, key);
  } finally {
    await owned.disposeAsync();
  }
}

function refusal(error: unknown, bucket: string, key: string): unknown {
  if (!(error instanceof Error) || error instanceof ArtifactError) return error;
  const options = { cause: error };
  const status = (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
  if (error.name === 'NoSuchBucket') {
    return new ArtifactError('no-such-bucket', `The bucket ${bucket} does not exist in the external store.`, options);
  }
  if (error.name === 'NoSuchKey' || status === 404) {
    return new ArtifactError('no-such-key', `The key ${key} does not exist in ${bucket}.`, options);
  }
  if (status === 401 || status === 403) {
    const message = `The external object store refuses to give s3://${bucket}/${key} to its access key (${error.name}).`;
    return new ArtifactError('store-denied', message, options);
  }
  return new ArtifactError(
    'store-unreachable',
    `s3://${bucket}/${key} could not be read: ${messageOf(error)}`,
    options,
  );
}
