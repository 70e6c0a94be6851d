import assert from 'node:assert/strict';
import { test } from 'node:test';
import { silentLogger } from '../lib/index.ts';
import { Catalog } from './catalog.ts';
import { proveAhead } from './proving.ts';
import { ARN, bench, INPUT } from './test-bench.ts';

const SECOND = ARN.replace('demo', 'second');

test('the versions that launches get are proven one after another, newest image first, whatever becomes of one', async () => {
  await using b = await bench();
  for (const name of ['demo', 'second']) {
    await b.images.create({ ...INPUT, name });
    await b.built(name);
  }
  await b.images.update({ ...INPUT, imageIdentifier: ARN });
  await b.built('demo', '2.0');
  const proven: string[] = [];
  await proveAhead({
    engine: {
      prove: async (snapshotDir) => {
        proven.push(snapshotDir);
        if (snapshotDir.includes('second')) throw new Error('damaged');
      },
    },
    catalog: new Catalog(b.store),
    snapshotDirOf: async (arn) => (await b.images.resolve(arn)).snapshotDir,
    log: silentLogger,
    signal: new AbortController().signal,
  });
  assert.deepEqual(proven, [b.images.snapshotDir(SECOND, '1.0'), b.images.snapshotDir(ARN, '2.0')]);
});

test('a server that stops proves nothing more', async () => {
  await using b = await bench();
  await b.images.create(INPUT);
  await b.built();
  await proveAhead({
    engine: { prove: () => assert.fail('proven') },
    catalog: new Catalog(b.store),
    snapshotDirOf: () => assert.fail('asked'),
    log: silentLogger,
    signal: AbortSignal.abort(),
  });
});
