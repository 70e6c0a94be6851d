import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { randomIds, systemClock } from '../../lib/index.ts';
import { limitsOf } from '../jail/limits.ts';
import { fakeDriver } from '../vmm/fake/fake-driver.ts';
import type { VmmConfig } from '../vmm/vmm.ts';
import { type RestoreSource, restoreMachine } from './restore.ts';

const SECRET = 'ab'.repeat(32);

/** What a fake VMM is restored from, in a folder of its own. */
async function saved(): Promise<AsyncDisposable & { config: VmmConfig; statePath: string; memory: Buffer }> {
  const root = await mkdtemp(path.join(tmpdir(), 'rk-restore-'));
  const [runDir, ram, statePath] = ['run', 'ram', 'state'].map((name) => path.join(root, name)) as [
    string,
    string,
    string,
  ];
  await mkdir(runDir);
  const memory = Buffer.from(JSON.stringify({ secret: SECRET }));
  await writeFile(ram, memory);
  await writeFile(statePath, 'fake device state\n');
  const machine = { id: 'm', runDir, memoryMiB: 512, cpus: 1, network: 'down', disks: [], boot: 'restore' } as const;
  return {
    config: { ...machine, limits: limitsOf(machine), ram: { path: ram, sharing: 'private' } },
    statePath,
    memory,
    [Symbol.asyncDispose]: () => rm(root, { recursive: true }),
  };
}

function context(leaving = new AbortController()) {
  return {
    driver: fakeDriver(),
    ids: randomIds,
    clock: systemClock,
    restoring: new Set<object>(),
    leaving: leaving.signal,
  };
}

test('a start called off while memory is loaded ends there: nothing is made void, no failure goes unheard', async () => {
  await using from = await saved();
  const loaded = Promise.withResolvers<void>();
  const loading = Promise.withResolvers<void>();
  const calledOff = new AbortController();
  let isVoid = false;
  async function* memory() {
    loading.resolve();
    await loaded.promise;
    yield from.memory;
  }
  const source: RestoreSource = {
    config: from.config,
    statePath: from.statePath,
    memory: memory(),
    secret: SECRET,
    verified: Promise.resolve(),
    beforeRun: async () => {
      isVoid = true;
    },
  };
  const restoring = restoreMachine(context(), source, { signal: calledOff.signal });
  await loading.promise;
  calledOff.abort(new Error('called off'));
  await assert.rejects(restoring, /called off/);
  loaded.resolve();
  // What goes on behind the caller's back has its turns; a rejection nobody hears fails this test.
  for (let turn = 0; turn < 50; turn++) await new Promise(setImmediate);
  assert.equal(isVoid, false);
});

test('a server that leaves its machines ends no start whose guest may have run', async () => {
  for (const leaves of [true, false]) {
    await using from = await saved();
    const leaving = new AbortController();
    const calledOff = new AbortController();
    const source: RestoreSource = {
      config: from.config,
      statePath: from.statePath,
      secret: SECRET,
      verified: Promise.resolve(),
      beforeRun: async () => {
        if (leaves) leaving.abort();
        calledOff.abort(new Error('called off'));
      },
    };
    const restoring = restoreMachine(context(leaving), source, { signal: calledOff.signal });
    if (!leaves) {
      await assert.rejects(restoring, /called off/);
      continue;
    }
    const { vmm, link } = await restoring;
    await link.ping({ timeoutMs: 5000 });
    await link[Symbol.asyncDispose]();
    await vmm[Symbol.asyncDispose]();
  }
});
