import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import { rawZip } from '../../test/support/raw-zip.ts';
import { TestClock } from '../lib/index.ts';
import { createArtifacts, createObjectStore } from './index.ts';

async function makeStore() {
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-objects-'));
  const clock = new TestClock();
  const store = await createObjectStore({ dir, clock });
  await store.createBucket('bucket');
  return { dir, clock, store, [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }) };
}

async function* body(...chunks: string[]) {
  for (const chunk of chunks) yield Buffer.from(chunk);
}

async function read(object: AsyncDisposable & { stream(): NodeJS.ReadableStream }): Promise<string> {
  return (await buffer(object.stream())).toString();
}

test('an object reads back with its bytes, size, MD5 and headers', async () => {
  await using place = await makeStore();
  const { store, clock } = place;
  const put = await store.put('bucket', 'a/b.zip', body('hel', 'lo'), {
    contentType: 'application/zip',
    headers: { 'x-amz-meta-k': 'v' },
    checksums: () => ({ crc32: 'NhCmhg==' }),
  });
  assert.equal(put.etag, '5d41402abc4b2a76b9719d911017c592');
  await using object = await store.open('bucket', 'a/b.zip');
  assert.equal(await read(object), 'hello');
  const { size, modifiedAt, contentType, headers, checksums } = object.info;
  assert.deepEqual(
    { size, modifiedAt, contentType, headers, checksums },
    {
      size: 5,
      modifiedAt: clock.now(),
      contentType: 'application/zip',
      headers: { 'x-amz-meta-k': 'v' },
      checksums: { crc32: 'NhCmhg==' },
    },
  );
});

test('a body that fails half way leaves the old object and no bytes of the new one', async () => {
  await using place = await makeStore();
  const { store, dir } = place;
  await store.put('bucket', 'k', body('old'));
  async function* broken() {
    yield Buffer.from('new');
    throw new Error('connection lost');
  }
  await assert.rejects(store.put('bucket', 'k', broken()), /connection lost/);
  await using object = await store.open('bucket', 'k');
  assert.equal(await read(object), 'old');
  assert.equal((await readdir(join(dir, 'bucket/data'))).length, 1);
});

test('an open object stays readable while it is replaced and deleted', async () => {
  await using place = await makeStore();
  const { store, dir } = place;
  await store.put('bucket', 'k', body('old'));
  await using object = await store.open('bucket', 'k');
  await store.put('bucket', 'k', body('new'));
  await store.delete('bucket', 'k');
  assert.equal(await read(object), 'old');
  assert.deepEqual(await readdir(join(dir, 'bucket/data')), []);
});

const hostileKeys = ['../../etc/passwd', '/absolute', 'nul\0byte', '.', '..', 'a//b', 'ü'.repeat(512), 'CON', 'x\n'];
test('hostile keys are names like any other and touch nothing outside', async () => {
  await using place = await makeStore();
  const { store, dir } = place;
  for (const key of hostileKeys) await store.put('bucket', key, body(key));
  for (const key of hostileKeys) {
    await using object = await store.open('bucket', key);
    assert.equal(await read(object), key);
  }
  const { objects } = await store.list('bucket', { limit: 1000 });
  assert.deepEqual(objects.map(({ key }) => key).sort(), [...hostileKeys].sort());
  assert.deepEqual(await readdir(dir), ['bucket']);
});

test('keys of no byte or more than 1024 are refused', async () => {
  await using place = await makeStore();
  await assert.rejects(place.store.put('bucket', '', body('x')), { kind: 'key-invalid' });
  await assert.rejects(place.store.put('bucket', 'ü'.repeat(513), body('x')), { kind: 'key-invalid' });
});

for (const name of ['..', '../evil', 'A', 'ab', 'a/b', '-ab', 'ab-', 'a..b', 'a'.repeat(64), 'nul\0']) {
  test(`the bucket name ${JSON.stringify(name)} is refused`, async () => {
    await using place = await makeStore();
    await assert.rejects(place.store.createBucket(name), { kind: 'bucket-name-invalid' });
    await assert.rejects(place.store.put(name, 'k', body('x')), { kind: 'no-such-bucket' });
  });
}

test('what is missing is refused by kind', async () => {
  await using place = await makeStore();
  const { store } = place;
  await assert.rejects(store.open('bucket', 'k'), { kind: 'no-such-key', code: 'NOT_FOUND' });
  await assert.rejects(store.open('nowhere', 'k'), { kind: 'no-such-bucket' });
  await assert.rejects(store.list('nowhere', { limit: 1 }), { kind: 'no-such-bucket' });
  await store.delete('bucket', 'k');
});

test('a bucket is made once and deleted only when empty', async () => {
  await using place = await makeStore();
  const { store } = place;
  await assert.rejects(store.createBucket('bucket'), { kind: 'bucket-exists' });
  await store.put('bucket', 'k', body('x'));
  await assert.rejects(store.deleteBucket('bucket'), { kind: 'bucket-not-empty' });
  await store.delete('bucket', 'k');
  await store.deleteBucket('bucket');
  assert.deepEqual(await store.buckets(), []);
});

test('a put that must not replace is refused when the key is taken', async () => {
  await using place = await makeStore();
  const { store } = place;
  await store.put('bucket', 'k', body('first'), { onlyIfAbsent: true });
  await assert.rejects(store.put('bucket', 'k', body('second'), { onlyIfAbsent: true }), { kind: 'key-exists' });
});

test('listing is in byte order, by prefix, grouped at the delimiter, page by page', async () => {
  await using place = await makeStore();
  const { store } = place;
  const keys = ['b/2', 'a', 'b/1', 'c/x/1', '\u{1F600}', '\uFFFD', 'c/y'];
  for (const key of keys) await store.put('bucket', key, body('x'));
  const all = await store.list('bucket', { limit: 100 });
  assert.deepEqual(
    all.objects.map(({ key }) => key),
    ['a', 'b/1', 'b/2', 'c/x/1', 'c/y', '\uFFFD', '\u{1F600}'],
  );
  const grouped = await store.list('bucket', { prefix: 'c/', delimiter: '/', limit: 100 });
  assert.deepEqual([grouped.objects.map(({ key }) => key), grouped.commonPrefixes], [['c/y'], ['c/x/']]);

  const names: string[] = [];
  for (let after: Parameters<typeof store.list>[1]['after']; ; ) {
    const page = await store.list('bucket', { delimiter: '/', limit: 1, after });
    names.push(...page.objects.map(({ key }) => key), ...page.commonPrefixes);
    after = page.next;
    if (after === undefined) break;
  }
  assert.deepEqual(names, ['a', 'b/', 'c/', '\uFFFD', '\u{1F600}']);
});

test('bytes a crash left behind are gone after the next start, objects are not', async () => {
  await using place = await makeStore();
  const { store, dir } = place;
  await store.put('bucket', 'k', body('kept'));
  await writeFile(join(dir, 'bucket/data/orphan'), 'x');
  await writeFile(join(dir, 'bucket/keys/half.json.new'), '{');
  const again = await createObjectStore({ dir });
  await using object = await again.open('bucket', 'k');
  assert.equal(await read(object), 'kept');
  assert.equal((await readdir(join(dir, 'bucket/data'))).length, 1);
  assert.equal((await readdir(join(dir, 'bucket/keys'))).length, 1);
});

test('an artifact is fetched by its URI and unpacked', async () => {
  await using place = await makeStore();
  const { store, dir } = place;
  const zip = rawZip([{ name: 'Dockerfile', content: 'FROM base\n' }]);
  async function* bytes() {
    yield zip;
  }
  await store.put('bucket', 'app v1.zip', bytes());
  const artifacts = createArtifacts({ store });
  await using artifact = await artifacts.fetchZip('s3://bucket/app v1.zip');
  await artifact.unpack(join(dir, 'unpacked'));
  assert.deepEqual(await readdir(join(dir, 'unpacked')), ['Dockerfile']);
  await assert.rejects(artifacts.fetchZip('s3://bucket/other.zip'), { kind: 'no-such-key' });
  await assert.rejects(artifacts.fetchZip('s3://nowhere/app.zip'), { kind: 'no-such-bucket' });
});

for (const uri of ['bucket/key', 's3://bucket', 's3://bucket/', 's3:///key', 's3://../key', 'https://x/y', '']) {
  test(`the artifact URI '${uri}' is refused`, async () => {
    await using place = await makeStore();
    await assert.rejects(createArtifacts({ store: place.store }).fetchZip(uri), { kind: 'uri-malformed' });
  });
}
