/** An artifact out of another store: a second Rekindle's own wire stands for it. */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { rawZip } from '../../../test/support/raw-zip.ts';
import { createArtifacts, createObjectStore } from '../../artifacts/index.ts';
import { credentials, region, serve } from './test-bench.ts';

async function makePlace() {
  await using stack = new AsyncDisposableStack();
  const other = stack.use(await serve());
  const Body = rawZip([{ name: 'Dockerfile', content: 'FROM base\n' }]);
  await other.s3.send(new PutObjectCommand({ Bucket: 'bucket', Key: 'app v1+ü.zip', Body }));
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-external-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const store = await createObjectStore({ dir: join(dir, 'objects') });
  const external = { endpoint: `http://127.0.0.1:${other.port}`, region, ...credentials, dir: join(dir, 'fetching') };
  const owned = stack.move();
  return { dir, store, external, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

test('an artifact whose bucket is not embedded comes from the external store and leaves no file', async () => {
  await using place = await makePlace();
  const artifacts = createArtifacts({ store: place.store, external: place.external });
  {
    await using artifact = await artifacts.fetchZip('s3://bucket/app v1+ü.zip');
    assert.ok(artifact.sizeBytes > 100);
    await artifact.unpack(join(place.dir, 'unpacked'));
    assert.deepEqual(await readdir(join(place.dir, 'unpacked')), ['Dockerfile']);
  }
  assert.deepEqual(await readdir(join(place.dir, 'fetching')), []);
});

test('the embedded store goes first where it has the bucket', async () => {
  await using place = await makePlace();
  await place.store.createBucket('bucket');
  const artifacts = createArtifacts({ store: place.store, external: place.external });
  await assert.rejects(artifacts.fetchZip('s3://bucket/app v1+ü.zip'), { kind: 'no-such-key' });
});

test("the external store's refusals are told apart", async () => {
  await using place = await makePlace();
  const { store, external } = place;
  const artifacts = createArtifacts({ store, external });
  await assert.rejects(artifacts.fetchZip('s3://bucket/missing.zip'), { kind: 'no-such-key' });
  await assert.rejects(artifacts.fetchZip('s3://nowhere/app.zip'), { kind: 'no-such-bucket' });
  const wrongKey = createArtifacts({ store, external: { ...external, secretAccessKey: 'other' } });
  await assert.rejects(wrongKey.fetchZip('s3://bucket/missing.zip'), { kind: 'store-denied' });
  const nobody = createArtifacts({ store, external: { ...external, endpoint: 'http://127.0.0.1:1' } });
  await assert.rejects(nobody.fetchZip('s3://bucket/missing.zip'), { kind: 'store-unreachable' });
  assert.deepEqual(await readdir(external.dir), []);
});
