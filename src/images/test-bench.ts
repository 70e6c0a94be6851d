/** For the tests of this room: images on the fake engine, a real store and object store, a clock moved by hand. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { ZipFile } from 'yazl';
import { createArtifacts, createObjectStore } from '../artifacts/index.ts';
import { type Connectors, createConnectors, fixedNetworks, parseNetworks } from '../connectors/index.ts';
import { type Budget, createFakeEngine, type FakeEngine, type FakeEngineOptions } from '../engine/index.ts';
import { type Logger, silentLogger, TestClock } from '../lib/index.ts';
import { openStore, type Store } from '../store/index.ts';
import type { RoleSource } from './build-role.ts';
import { type CreateImageInput, createImages, type ImageQuotas, type Images } from './index.ts';

export const BASE = 'arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1';
export const ARN = 'arn:aws:lambda:us-east-1:000000000000:microvm-image:demo';
export const INPUT: CreateImageInput = {
  name: 'demo',
  baseImageArn: BASE,
  buildRoleArn: 'arn:aws:iam::000000000000:role/build',
  codeArtifact: { uri: 's3://code/demo.zip' },
};

export interface Bench extends AsyncDisposable {
  readonly images: Images;
  readonly connectors: Connectors;
  readonly engine: FakeEngine;
  readonly clock: TestClock;
  readonly stateDir: string;
  readonly store: Store;
  put(key: string, files: Record<string, string>): Promise<void>;
  /** Waits until the build of `name` ended and returns its log. */
  built(name?: string, version?: string): Promise<string>;
  /** Of the server; on the same state folder. */
  restart(engine?: FakeEngineOptions): Promise<Bench>;
}

interface Setup {
  readonly engine?: FakeEngineOptions;
  readonly concurrentBuilds?: number;
  readonly quotas?: ImageQuotas;
  readonly budget?: Budget;
  readonly roles?: RoleSource;
  readonly stateDir?: string;
  readonly log?: Logger;
}

export async function bench(setup: Setup = {}): Promise<Bench> {
  const stateDir = setup.stateDir ?? (await mkdtemp(path.join(tmpdir(), 'rk-images-')));
  const engine = createFakeEngine(setup.engine);
  const clock = new TestClock();
  const store = await openStore(path.join(stateDir, 'store.sqlite'));
  const objects = await createObjectStore({ dir: path.join(stateDir, 'objects') });
  const connectors = createConnectors({
    store,
    clock,
    region: 'us-east-1',
    accountId: '000000000000',
    log: silentLogger,
    networks: fixedNetworks(parseNetworks('{"subnets":{"subnet-1":{"cidrs":["10.1.0.0/16"]}}}')),
  });
  await connectors.start();
  const images = createImages({
    store,
    engine,
    roles: setup.roles,
    clock,
    stateDir,
    artifacts: createArtifacts({ store: objects }),
    connectors,
    region: 'us-east-1',
    accountId: '000000000000',
    log: setup.log ?? silentLogger,
    ...(setup.quotas !== undefined && { quotas: setup.quotas }),
    ...(setup.budget !== undefined && { budget: setup.budget }),
    ...(setup.concurrentBuilds !== undefined && { concurrentBuilds: setup.concurrentBuilds }),
  });
  if (setup.stateDir === undefined) await objects.createBucket('code');
  await images.start();
  const close = async () => {
    await images[Symbol.asyncDispose]();
    await connectors[Symbol.asyncDispose]();
    await engine[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
  };
  const b: Bench = {
    images,
    connectors,
    engine,
    clock,
    stateDir,
    store,
    put: async (key, files) => {
      const zip = new ZipFile();
      for (const [name, content] of Object.entries(files)) zip.addBuffer(Buffer.from(content), name);
      zip.end();
      const bytes = await buffer(zip.outputStream);
      await objects.put(
        'code',
        key,
        (async function* () {
          yield bytes;
        })(),
      );
    },
    built: async (name = 'demo', version = '1.0') => {
      const chunks: Buffer[] = [];
      const log = images.buildLog(ARN.replace('demo', name), version, { follow: true });
      for await (const chunk of log) chunks.push(chunk);
      return Buffer.concat(chunks).toString();
    },
    restart: async (engine) => {
      await close();
      return bench({ ...setup, ...(engine && { engine }), stateDir });
    },
    [Symbol.asyncDispose]: async () => {
      await close();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
  if (setup.stateDir === undefined) await b.put('demo.zip', { Dockerfile: 'FROM base\n' });
  return b;
}
