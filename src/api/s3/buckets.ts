/** The bucket operations. */
import { ArtifactError } from '../../artifacts/index.ts';
import { readBody } from '../read-body.ts';
import type { S3Call } from './call.ts';
import { element, S3_NAMESPACE, xmlDocument } from './xml.ts';

export async function listBuckets({ store, send }: S3Call): Promise<void> {
  const buckets = await store.buckets();
  const items = buckets.map(({ name, createdAt }) =>
    element('Bucket', [element('Name', name), element('CreationDate', new Date(createdAt).toISOString())]),
  );
  const owner = element('Owner', [element('ID', 'rekindle'), element('DisplayName', 'rekindle')]);
  send(200, {}, xmlDocument('ListAllMyBucketsResult', [owner, element('Buckets', items)], S3_NAMESPACE));
}

/** Making one's own bucket again is a success in us-east-1 and a conflict elsewhere, as on S3. */
export async function createBucket({ request, store, bucket, region, send }: S3Call): Promise<void> {
  // Its only content would be the region, which is this server's.
  await readBody(request);
  try {
    await store.createBucket(bucket);
  } catch (error) {
    const isOwn = error instanceof ArtifactError && error.kind === 'bucket-exists';
    if (!isOwn || region !== 'us-east-1') throw error;
  }
  send(200, { Location: `/${bucket}` });
}

export async function headBucket({ store, bucket, region, send }: S3Call): Promise<void> {
  await store.bucket(bucket);
  send(200, { 'x-amz-bucket-region': region, 'Content-Type': 'application/xml' });
}

export async function getBucketLocation({ store, bucket, region, send }: S3Call): Promise<void> {
  await store.bucket(bucket);
  // S3's oldest region has no name here.
  const name = region === 'us-east-1' ? '' : region;
  send(200, {}, xmlDocument('LocationConstraint', [], S3_NAMESPACE).replace('></', `>${name}</`));
}

export async function deleteBucket({ store, bucket, send }: S3Call): Promise<void> {
  await store.deleteBucket(bucket);
  send(204, {});
}
