import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import type { Machine } from '../../index.ts';
import { createFakeEngine } from '../../index.ts';

test('a fake machine answers HTTP and keeps its memory over suspend and resume', async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'rk-fake-'));
  try {
    await using engine = createFakeEngine();
    const disk = await engine.build(
      { buildId: 'b', contextDir: folder, cacheOwner: 'o', outDir: path.join(folder, 'out'), onLog() {} },
      {},
    );
    const snapshotDir = path.join(folder, 'snapshot');
    await engine.seal(
      {
        buildId: 'b',
        disk,
        config: disk.config,
        capabilities: 'default',
        memoryMiB: 512,
        readiness: { kind: 'listening', port: 8080, graceMs: 1 },
        snapshotDir,
        onLog() {},
      },
      {},
    );
    const first = await engine.launch({ id: 'm-1', snapshotDir }, {});
    assert.deepEqual(await get(first), { id: 'm-1', count: 1 });
    assert.deepEqual(await get(first), { id: 'm-1', count: 2 });
    await first.suspend({});
    const second = await engine.resume({ id: 'm-1', snapshotDir }, {});
    assert.deepEqual(await get(second), { id: 'm-1', count: 3 });
    engine.exit('m-1', { kind: 'app', exitCode: 3 });
    assert.deepEqual(await second.exited, { kind: 'app', exitCode: 3 });
    engine.failNext('launch', new Error('scripted'));
    await assert.rejects(engine.launch({ id: 'm-2', snapshotDir }, {}), /scripted/);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

async function get(machine: Machine): Promise<unknown> {
  const stream = await machine.connect(8080, {});
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  http
    .get({ path: '/', createConnection: () => stream }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (chunk) => {
        body += chunk;
      });
      response.on('end', () => resolve(body));
    })
    .on('error', reject);
  return JSON.parse(await promise);
}
