/** The S3 wire on a port of its own, for tests. */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CreateBucketCommand, S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';
import { createObjectStore } from '../../artifacts/index.ts';
import { createIdentity } from '../../identity/index.ts';
import { silentLogger } from '../../lib/index.ts';
import { createS3 } from './s3.ts';

export const region = 'us-east-1';
export const credentials = { accessKeyId: 'AKID', secretAccessKey: 'secret' };

/** The wire over a store of its own with one bucket, `bucket`, and the official client of it. */
export async function serve(options: { auth?: 'sigv4' | 'off' } = {}) {
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-s3-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const store = await createObjectStore({ dir });
  const identity = createIdentity({ account: '000000000000', rootKeys: [credentials] });
  const server = createServer(
    createS3({ store, identity, region, auth: options.auth ?? 'sigv4', logger: silentLogger }),
  );
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  stack.defer(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  const made = stack.move();
  const client = (config: S3ClientConfig = {}) => {
    const one = new S3Client({ region, endpoint: `http://127.0.0.1:${port}`, credentials, maxAttempts: 1, ...config });
    made.defer(() => one.destroy());
    return one;
  };
  const s3 = client();
  await s3.send(new CreateBucketCommand({ Bucket: 'bucket' }));
  return { s3, client, port, store, dir, [Symbol.asyncDispose]: () => made.disposeAsync() };
}
