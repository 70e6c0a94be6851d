/** For the tests of this room: microVMs on the fake engine, a real store, a clock moved by hand. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { get as httpGet } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type Connectors, createConnectors, fixedNetworks, parseNetworks } from '../connectors/index.ts';
import {
  type Budget,
  createFakeDisk,
  createFakeEngine,
  type FakeDisk,
  type FakeEngine,
  type FakeEngineOptions,
} from '../engine/index.ts';
import type { Hooks } from '../images/index.ts';
import { silentLogger, TestClock } from '../lib/index.ts';
import { openStore, releaseClaims, type Store } from '../store/index.ts';
import type { RoleSource } from './credentials.ts';
import { createMicrovms, type Machine, type MicrovmState, type Microvms, type RunMicrovmInput } from './index.ts';

export const IMAGE = 'arn:aws:lambda:us-east-1:000000000000:microvm-image:demo';
export const IDLE = { maxIdleDurationSeconds: 60, suspendedDurationSeconds: 120, autoResumeEnabled: true };

export interface Bench extends AsyncDisposable {
  readonly microvms: Microvms;
  readonly connectors: Connectors;
  readonly engine: FakeEngine;
  readonly clock: TestClock;
  readonly store: Store;
  readonly stateDir: string;
  readonly endpoints: string[];
  run(input?: Partial<RunMicrovmInput>): Promise<string>;
  until(id: string, state: MicrovmState): Promise<void>;
  /** Closes everything and opens it again on the same folder, as after a stop of the server. */
  restart(): Promise<Bench>;
  /** The same after the server was killed: nothing is closed, machines live on. */
  kill(): Promise<Bench>;
}

interface Setup {
  readonly engine?: FakeEngineOptions;
  readonly hooks?: Hooks;
  readonly roles?: RoleSource;
  readonly concurrentLaunches?: number;
  readonly checkpointSeconds?: number;
  readonly memoryQuotaMiB?: number;
  readonly budget?: Budget;
  readonly pressureWatchMs?: number;
  readonly stateDir?: string;
  readonly disk?: FakeDisk;
  readonly clock?: TestClock;
}

export async function bench(setup: Setup = {}): Promise<Bench> {
  const stateDir = setup.stateDir ?? (await mkdtemp(path.join(tmpdir(), 'rk-microvms-')));
  const clock = setup.clock ?? new TestClock();
  const disk = setup.disk ?? createFakeDisk();
  const engine = createFakeEngine({ ...setup.engine, disk, anySnapshot: true, now: () => clock.now() });
  const store = await openStore(path.join(stateDir, 'store.sqlite'));
  const endpoints: string[] = [];
  let port = 40_000;
  const connectors = createConnectors({
    store,
    clock,
    region: 'us-east-1',
    accountId: '000000000000',
    log: silentLogger,
    networks: fixedNetworks(parseNetworks('{"subnets":{"subnet-1":{"cidrs":["10.1.0.0/16"]}}}')),
  });
  await connectors.start();
  const microvms = await createMicrovms({
    store,
    engine,
    roles: setup.roles,
    clock,
    stateDir,
    region: 'us-east-1',
    log: silentLogger,
    connectors,
    images: {
      resolve: async () => ({
        imageArn: IMAGE,
        imageVersion: '1.0',
        snapshotDir: '/snapshots/demo',
        memoryMiB: 512,
        hooks: setup.hooks ?? null,
        egressNetworkConnectors: [
          'arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:INTERNET_EGRESS',
        ],
        unchanged: releaseClaims('nothing'),
      }),
      snapshotDir: () => '/snapshots/demo',
    },
    endpoints: {
      open: async (endpoint) => {
        const given = endpoint.port ?? port++;
        endpoints.push(`open ${given}`);
        return { address: `localhost:${given}`, port: given };
      },
      close: async (id) => void endpoints.push(`close ${id}`),
    },
    memoryQuotaMiB: setup.memoryQuotaMiB,
    ...(setup.budget && { budget: setup.budget }),
    ...(setup.pressureWatchMs && { pressureWatchMs: setup.pressureWatchMs }),
    ...(setup.checkpointSeconds && { checkpointSeconds: setup.checkpointSeconds }),
    ...(setup.concurrentLaunches && { concurrentLaunches: setup.concurrentLaunches }),
  });
  await microvms.start();
  const close = async () => {
    await microvms[Symbol.asyncDispose]();
    await connectors[Symbol.asyncDispose]();
    await engine[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
  };
  return {
    microvms,
    connectors,
    engine,
    clock,
    store,
    stateDir,
    endpoints,
    run: async (input = {}) => (await microvms.run({ imageIdentifier: IMAGE, ...input })).microvmId,
    until: async (id, state) => {
      for (let i = 0; i < 2000; i++) {
        if ((await microvms.get(id)).state === state) return;
        await clock.advance(0);
      }
      assert.fail(`${id} is ${JSON.stringify(await microvms.get(id))}, not ${state}`);
    },
    restart: async () => {
      await close();
      return bench({ ...setup, stateDir, disk, clock });
    },
    kill: async () => {
      engine.abandon();
      await store[Symbol.asyncDispose]();
      return bench({ ...setup, stateDir, disk, clock });
    },
    [Symbol.asyncDispose]: async () => {
      await close();
      // A server that was abandoned may be writing still, as one that is being killed may.
      await rm(stateDir, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/** Asks the default app, which counts its requests in memory. */
export async function count(machine: Machine): Promise<number> {
  const stream = await machine.connect(8080, {});
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  httpGet({ path: '/', createConnection: () => stream }, (response) => {
    let body = '';
    response.setEncoding('utf8').on('data', (chunk) => {
      body += chunk;
    });
    response.on('end', () => resolve(body));
  }).on('error', reject);
  return (JSON.parse(await promise) as { count: number }).count;
}
