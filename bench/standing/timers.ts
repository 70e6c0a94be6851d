/**
 * The microVMs room alone on a real store with very many SUSPENDED records, in the process that measures: what its timers
 * cost while nothing is due, and when something is. Endpoints are left out: a host has not so many ports.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { createConnectors, fixedNetworks, parseNetworks } from '../../src/connectors/index.ts';
import { createFakeEngine } from '../../src/engine/index.ts';
import { randomIds, silentLogger, systemClock } from '../../src/lib/index.ts';
import { createMicrovms, type Microvms } from '../../src/microvms/index.ts';
import { openStore, releaseClaims, type Store } from '../../src/store/index.ts';
import type { Row } from '../table.ts';
import { multiply } from './records.ts';

const IMAGE = 'arn:aws:lambda:us-east-1:000000000000:microvm-image:standing';
const CALM_MS = 3000;
const SUSPENDED_SECONDS = 28_000;

export async function timers(records: number, seconds: number): Promise<Row[]> {
  await using stack = new AsyncDisposableStack();
  const stateDir = await mkdtemp(join(tmpdir(), 'rekindle-timers-'));
  stack.defer(() => rm(stateDir, { recursive: true, force: true }));
  await onStore(stateDir, async (microvms) => {
    const { microvmId } = await microvms.run({
      imageIdentifier: IMAGE,
      idlePolicy: { maxIdleDurationSeconds: 900, suspendedDurationSeconds: SUSPENDED_SECONDS, autoResumeEnabled: true },
    });
    await until(async () => (await microvms.get(microvmId)).state === 'RUNNING');
    await microvms.suspend(microvmId);
    await until(async () => (await microvms.get(microvmId)).state === 'SUSPENDED');
  });
  await multiply(stateDir, { count: records - 1, state: 'SUSPENDED', fromPort: 1 });
  globalThis.gc?.();
  const emptyMB = process.memoryUsage().rss / 1e6;
  return onStore(stateDir, async (_microvms, store, startMs) => {
    await delay(CALM_MS);
    const before = process.cpuUsage();
    await delay(seconds * 1000);
    const used = process.cpuUsage(before);
    const perMinuteMs = ((used.user + used.system) / 1000 / seconds) * 60;
    const rows = store.records('microvms');
    const startedAt = performance.now();
    for (let i = 0; i < 1000; i++) await rows.nextDueAt();
    const askUs = performance.now() - startedAt;
    const count = records.toLocaleString('en');
    return [
      { what: `${count} SUSPENDED records: the room's start`, value: `${startMs.toFixed(0)} ms` },
      {
        what: '  CPU per idle minute, all timers',
        value: `${perMinuteMs.toFixed(0)} ms`,
        promise: 'no scan',
      },
      { what: '  asking who is due first', value: `${askUs.toFixed(0)} µs` },
      {
        what: '  memory of the process, more than before',
        value: `${(process.memoryUsage().rss / 1e6 - emptyMB).toFixed(0)} MB`,
      },
    ];
  });
}

async function onStore<T>(
  stateDir: string,
  work: (microvms: Microvms, store: Store, startMs: number) => Promise<T>,
): Promise<T> {
  await using stack = new AsyncDisposableStack();
  const store = stack.use(await openStore(join(stateDir, 'store.sqlite')));
  const engine = stack.use(createFakeEngine({ anySnapshot: true }));
  const common = { store, engine, region: 'us-east-1', log: silentLogger, clock: systemClock, ids: randomIds };
  const networks = fixedNetworks(parseNetworks('{}'));
  const connectors = stack.use(createConnectors({ ...common, accountId: '000000000000', networks }));
  await connectors.start();
  const startedAt = performance.now();
  const microvms = stack.use(
    await createMicrovms({
      ...common,
      connectors,
      stateDir,
      pressureWatchMs: 1000,
      images: {
        resolve: async () => ({
          imageArn: IMAGE,
          imageVersion: '1.0',
          snapshotDir: '/nowhere',
          memoryMiB: 512,
          hooks: null,
          egressNetworkConnectors: [],
          unchanged: releaseClaims('nothing'),
        }),
        snapshotDir: () => '/nowhere',
      },
      endpoints: { open: async ({ port }) => ({ address: 'localhost', port: port ?? 1 }), close: async () => {} },
    }),
  );
  await microvms.start();
  return await work(microvms, store, performance.now() - startedAt);
}

async function until(isSo: () => Promise<boolean>): Promise<void> {
  while (!(await isSo())) await delay(5);
}
