/** Multipart uploads, copies, deletions of many and the first listing, driven by the official client. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { test } from 'node:test';
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CopyObjectCommand,
  CreateMultipartUploadCommand,
  type CreateMultipartUploadCommandInput,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsCommand,
  ListPartsCommand,
  PutObjectCommand,
  type S3Client,
  UploadPartCommand,
  UploadPartCopyCommand,
} from '@aws-sdk/client-s3';
import { createObjectStore } from '../../artifacts/index.ts';
import { TestClock } from '../../lib/index.ts';
import { serve } from './test-bench.ts';

const MiB = 1024 * 1024;
const on = { Bucket: 'bucket', Key: 'some/big.bin' };
const md5 = (...pieces: readonly Buffer[]) => {
  const hash = createHash('md5');
  for (const piece of pieces) hash.update(piece);
  return hash.digest();
};

interface Part {
  readonly PartNumber: number;
  readonly ETag: string | undefined;
  readonly ChecksumCRC32: string | undefined;
}

async function begin(s3: S3Client, more: Partial<CreateMultipartUploadCommandInput> = {}): Promise<string> {
  return (await s3.send(new CreateMultipartUploadCommand({ ...on, ...more }))).UploadId ?? '';
}

async function put(s3: S3Client, UploadId: string, PartNumber: number, Body: Buffer): Promise<Part> {
  const { ETag, ChecksumCRC32 } = await s3.send(new UploadPartCommand({ ...on, UploadId, PartNumber, Body }));
  return { PartNumber, ETag, ChecksumCRC32 };
}

function complete(s3: S3Client, UploadId: string, Parts: readonly Partial<Part>[], more: object = {}) {
  return s3.send(
    new CompleteMultipartUploadCommand({ ...on, UploadId, MultipartUpload: { Parts: [...Parts] }, ...more }),
  );
}

test('parts put out of order and again become one object with the ETag and checksum S3 gives it', async () => {
  await using place = await serve();
  const { s3 } = place;
  const [first, second] = [Buffer.alloc(5 * MiB, 'ab'), Buffer.from('the end')];
  const UploadId = await begin(s3, {
    ContentType: 'application/zip',
    Metadata: { owner: 'me' },
    ChecksumAlgorithm: 'CRC32',
  });
  await put(s3, UploadId, 1, Buffer.from('replaced'));
  const two = await put(s3, UploadId, 2, second);
  const one = await put(s3, UploadId, 1, first);
  assert.deepEqual([one.ETag, two.ETag], [`"${md5(first).toString('hex')}"`, `"${md5(second).toString('hex')}"`]);
  const listed = await s3.send(new ListPartsCommand({ ...on, UploadId }));
  assert.deepEqual(
    listed.Parts?.map(({ PartNumber, Size }) => [PartNumber, Size]),
    [
      [1, 5 * MiB],
      [2, 7],
    ],
  );
  await assert.rejects(s3.send(new HeadObjectCommand(on)), { name: 'NotFound' });

  const done = await complete(s3, UploadId, [one, two]);
  const etag = `"${md5(md5(first), md5(second)).toString('hex')}-2"`;
  assert.deepEqual([done.ETag, done.ChecksumType], [etag, 'COMPOSITE']);
  assert.match(done.ChecksumCRC32 ?? '', /^[\w+/]{6}==-2$/);
  const got = await s3.send(new GetObjectCommand({ ...on, ChecksumMode: 'ENABLED' }));
  assert.deepEqual(Buffer.from((await got.Body?.transformToByteArray()) ?? []), Buffer.concat([first, second]));
  assert.deepEqual(
    [got.ETag, got.ContentType, got.Metadata, got.ChecksumCRC32, got.ChecksumType],
    [etag, 'application/zip', { owner: 'me' }, done.ChecksumCRC32, 'COMPOSITE'],
  );
  await assert.rejects(s3.send(new ListPartsCommand({ ...on, UploadId })), { name: 'NoSuchUpload' });
});

test('a checksum of the whole object is computed while the parts are put together', async () => {
  await using place = await serve();
  const { s3 } = place;
  const bytes = Buffer.concat([Buffer.alloc(5 * MiB, 'x'), Buffer.from('y')]);
  await s3.send(new PutObjectCommand({ ...on, Key: 'whole', Body: bytes }));
  const whole = await s3.send(new HeadObjectCommand({ ...on, Key: 'whole', ChecksumMode: 'ENABLED' }));
  const UploadId = await begin(s3, { ChecksumAlgorithm: 'CRC32', ChecksumType: 'FULL_OBJECT' });
  const parts = [
    await put(s3, UploadId, 1, bytes.subarray(0, 5 * MiB)),
    await put(s3, UploadId, 2, bytes.subarray(5 * MiB)),
  ];
  const wrong = complete(s3, UploadId, parts, { ChecksumCRC32: 'AAAAAA==', ChecksumType: 'FULL_OBJECT' });
  await assert.rejects(wrong, { name: 'BadDigest' });
  const done = await complete(s3, UploadId, parts, { ChecksumCRC32: whole.ChecksumCRC32, ChecksumType: 'FULL_OBJECT' });
  assert.deepEqual([done.ChecksumCRC32, done.ChecksumType], [whole.ChecksumCRC32, 'FULL_OBJECT']);
});

test('an upload is not completed with parts that do not fit, and can be completed afterwards', async () => {
  await using place = await serve();
  const { s3 } = place;
  const UploadId = await begin(s3);
  const one = await put(s3, UploadId, 1, Buffer.from('small'));
  const two = await put(s3, UploadId, 2, Buffer.from('smaller'));
  await assert.rejects(complete(s3, UploadId, [two, one]), { name: 'InvalidPartOrder' });
  await assert.rejects(complete(s3, UploadId, [{ ...one, ETag: two.ETag }]), { name: 'InvalidPart' });
  await assert.rejects(complete(s3, UploadId, [{ ...one, PartNumber: 3 }]), { name: 'InvalidPart' });
  await assert.rejects(complete(s3, UploadId, [{ ...one, ChecksumCRC32: 'AAAAAA==' }]), { name: 'InvalidPart' });
  await assert.rejects(complete(s3, UploadId, [one, two]), { name: 'EntityTooSmall' });
  await assert.rejects(complete(s3, UploadId, []), { name: 'MalformedXML' });
  await assert.rejects(complete(s3, UploadId, [one], { MpuObjectSize: 6 }), { name: 'InvalidRequest' });
  await assert.rejects(complete(s3, 'f'.repeat(32), [one]), { name: 'NoSuchUpload' });
  await complete(s3, UploadId, [one], { MpuObjectSize: 5, IfNoneMatch: '*' });
  const again = await begin(s3);
  const three = await put(s3, again, 1, Buffer.from('x'));
  await assert.rejects(complete(s3, again, [three], { IfNoneMatch: '*' }), { name: 'PreconditionFailed' });
});

test('uploads are listed page by page, and an aborted one leaves nothing', async () => {
  await using place = await serve();
  const { s3 } = place;
  for (const Key of ['b', 'a', 'a']) await s3.send(new CreateMultipartUploadCommand({ Bucket: 'bucket', Key }));
  const seen: (string | undefined)[] = [];
  for (let next: { KeyMarker?: string | undefined; UploadIdMarker?: string | undefined } = {}; ; ) {
    const page = await s3.send(new ListMultipartUploadsCommand({ Bucket: 'bucket', MaxUploads: 1, ...next }));
    seen.push(...(page.Uploads ?? []).map(({ Key }) => Key));
    if (page.IsTruncated !== true) break;
    next = { KeyMarker: page.NextKeyMarker, UploadIdMarker: page.NextUploadIdMarker };
  }
  assert.deepEqual(seen, ['a', 'a', 'b']);
  const UploadId = await begin(s3);
  await put(s3, UploadId, 1, Buffer.from('x'));
  await s3.send(new AbortMultipartUploadCommand({ ...on, UploadId }));
  await assert.rejects(put(s3, UploadId, 2, Buffer.from('x')), { name: 'NoSuchUpload' });
  await assert.rejects(s3.send(new AbortMultipartUploadCommand({ ...on, UploadId })), { name: 'NoSuchUpload' });
  assert.equal((await readdir(`${place.dir}/bucket/uploads`)).length, 3);
});

test('an upload nobody ended goes after a week, a younger one stays with its parts', async () => {
  await using place = await serve();
  const { s3, dir, store } = place;
  const UploadId = await begin(s3);
  await put(s3, UploadId, 1, Buffer.from('x'));
  const at = (days: number) =>
    createObjectStore({ dir, clock: new TestClock({ startAtMs: Date.now() + days * 86_400_000 }) });
  assert.equal((await (await at(6)).uploads.parts('bucket', on.Key, UploadId)).length, 1);
  await at(8);
  assert.deepEqual(await store.uploads.list('bucket'), []);
});

test('an object is copied with its metadata, or with other', async () => {
  await using place = await serve();
  const { s3 } = place;
  const source = { Bucket: 'bucket', Key: 'ä b+%/x' };
  await s3.send(new PutObjectCommand({ ...source, Body: 'hello', ContentType: 'text/css', Metadata: { a: '1' } }));
  const CopySource = `bucket/${encodeURIComponent(source.Key)}`;
  const copy = (more: object) => s3.send(new CopyObjectCommand({ Bucket: 'bucket', Key: 'copy', CopySource, ...more }));
  const { CopyObjectResult } = await copy({});
  const head = await s3.send(new HeadObjectCommand({ Bucket: 'bucket', Key: 'copy' }));
  assert.deepEqual([head.ETag, head.ContentType, head.Metadata], [CopyObjectResult?.ETag, 'text/css', { a: '1' }]);
  await copy({
    MetadataDirective: 'REPLACE',
    ContentType: 'text/plain',
    Metadata: { b: '2' },
    ChecksumAlgorithm: 'SHA256',
  });
  const replaced = await s3.send(new HeadObjectCommand({ Bucket: 'bucket', Key: 'copy', ChecksumMode: 'ENABLED' }));
  assert.deepEqual([replaced.ContentType, replaced.Metadata], ['text/plain', { b: '2' }]);
  assert.equal(replaced.ChecksumSHA256, createHash('sha256').update('hello').digest('base64'));
  await assert.rejects(copy({ CopySourceIfMatch: '"x"' }), { name: 'PreconditionFailed' });
  await assert.rejects(copy({ CopySource: 'bucket/nothing' }), { name: 'NoSuchKey' });
  await assert.rejects(copy({ Key: source.Key }), { name: 'InvalidRequest' });
});

test('a part is copied from a range of an object', async () => {
  await using place = await serve();
  const { s3 } = place;
  await s3.send(new PutObjectCommand({ Bucket: 'bucket', Key: 'source', Body: '0123456789' }));
  const UploadId = await begin(s3, { ChecksumAlgorithm: 'CRC32' });
  const copy = (CopySourceRange: string) =>
    s3.send(
      new UploadPartCopyCommand({ ...on, UploadId, PartNumber: 1, CopySource: '/bucket/source', CopySourceRange }),
    );
  const { CopyPartResult } = await copy('bytes=2-4');
  await assert.rejects(copy('bytes=2-10'), { name: 'InvalidArgument' });
  await complete(s3, UploadId, [
    { PartNumber: 1, ETag: CopyPartResult?.ETag, ChecksumCRC32: CopyPartResult?.ChecksumCRC32 },
  ]);
  assert.equal(await (await s3.send(new GetObjectCommand(on))).Body?.transformToString(), '234');
});

test('many objects are deleted at once, missing ones too', async () => {
  await using place = await serve();
  const { s3, store } = place;
  const keys = ['a', '<&>', 'ü', 'x\ny'];
  for (const Key of keys) await s3.send(new PutObjectCommand({ Bucket: 'bucket', Key, Body: 'x' }));
  const Objects = [...keys, 'missing'].map((Key) => ({ Key }));
  const { Deleted, Errors } = await s3.send(new DeleteObjectsCommand({ Bucket: 'bucket', Delete: { Objects } }));
  assert.deepEqual([Deleted?.length, Errors], [5, undefined]);
  assert.deepEqual((await store.list('bucket', { limit: 9 })).objects, []);
  const quiet = await s3.send(new DeleteObjectsCommand({ Bucket: 'bucket', Delete: { Objects, Quiet: true } }));
  assert.equal(quiet.Deleted, undefined);
});

test('the first version of listing pages by marker', async () => {
  await using place = await serve();
  const { s3 } = place;
  for (const Key of ['a/1', 'a/2', 'b', 'c/1'])
    await s3.send(new PutObjectCommand({ Bucket: 'bucket', Key, Body: 'x' }));
  const seen: (string | undefined)[] = [];
  for (let Marker: string | undefined; ; ) {
    const page = await s3.send(new ListObjectsCommand({ Bucket: 'bucket', Delimiter: '/', MaxKeys: 1, Marker }));
    seen.push(...(page.Contents ?? []).map(({ Key }) => Key), ...(page.CommonPrefixes ?? []).map((one) => one.Prefix));
    if (page.IsTruncated !== true) break;
    Marker = page.NextMarker;
  }
  assert.deepEqual(seen, ['a/', 'b', 'c/']);
});
