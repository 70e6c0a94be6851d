/** For tests of what images and microVMs do to each other: both real rooms on one store and one budget, with the fake engine. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { ZipFile } from 'yazl';
import { createArtifacts, createObjectStore, type ObjectStore } from '../artifacts/index.ts';
import { createConnectors, fixedNetworks, parseNetworks } from '../connectors/index.ts';
import { type Budget, createFakeEngine, type FakeEngine, unboundedBudget } from '../engine/index.ts';
import { type CreateImageInput, createImages, type Images } from '../images/index.ts';
import { silentLogger, TestClock } from '../lib/index.ts';
import { openStore } from '../store/index.ts';
import { createMicrovms, type Microvms } from './index.ts';

const REGION = 'us-east-1';
const ACCOUNT = '000000000000';

export const arnOf = (name: string) => `arn:aws:lambda:${REGION}:${ACCOUNT}:microvm-image:${name}`;

export interface Rooms extends AsyncDisposable {
  readonly images: Images;
  readonly microvms: Microvms;
  readonly engine: FakeEngine;
  readonly clock: TestClock;
  /** Creates an image and waits until it is built. */
  build(name: string): Promise<string>;
  /** Waits until a build of `arn`, the first one's unless told, has ended, one way or the other. */
  built(arn: string, version?: string): Promise<void>;
  /** Runs what is under way until it is so. */
  until(what: string, isSo: () => Promise<boolean>): Promise<void>;
}

export interface RoomsSetup {
  readonly budget?: Budget;
  readonly clock?: TestClock;
  readonly memoryQuotaMiB?: number;
  readonly concurrentBuilds?: number;
  readonly concurrentLaunches?: number;
}

export async function rooms(setup: RoomsSetup = {}): Promise<Rooms> {
  await using stack = new AsyncDisposableStack();
  const stateDir = await mkdtemp(path.join(tmpdir(), 'rk-rooms-'));
  stack.defer(() => rm(stateDir, { recursive: true, force: true }));
  const { budget = unboundedBudget(), clock = new TestClock(), memoryQuotaMiB, ...bounds } = setup;
  const store = stack.use(await openStore(path.join(stateDir, 'store.sqlite')));
  const engine = stack.use(createFakeEngine());
  const common = { store, engine, clock, stateDir, region: REGION, accountId: ACCOUNT, log: silentLogger, budget };
  const connectors = stack.use(createConnectors({ ...common, networks: fixedNetworks(parseNetworks('{}')) }));
  await connectors.start();
  const artifacts = createArtifacts({ store: await codeStore(path.join(stateDir, 'objects')) });
  const images = stack.use(createImages({ ...common, ...bounds, connectors, artifacts }));
  const endpoints = { open: async () => ({ address: 'localhost:1', port: 1 }), close: async () => {} };
  const microvms = stack.use(
    await createMicrovms({ ...common, ...bounds, connectors, images, endpoints, memoryQuotaMiB }),
  );
  await images.start();
  await microvms.start();
  const until = async (what: string, isSo: () => Promise<boolean>) => {
    for (let i = 0; i < 20_000; i++) {
      if (await isSo()) return;
      await clock.advance(0);
    }
    assert.fail(`it did not come to this: ${what}`);
  };
  // Followers are let go when a build has ended.
  const built = async (arn: string, version = '1.0') => {
    for await (const _ of images.buildLog(arn, version, { follow: true }));
  };
  const owned = stack.move();
  return {
    images,
    microvms,
    engine,
    clock,
    until,
    build: async (name) => {
      const { imageArn } = await images.create(imageInput(name));
      await built(imageArn);
      assert.equal((await images.get(imageArn)).state, 'CREATED');
      return imageArn;
    },
    built,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

export function imageInput(name: string): CreateImageInput {
  return {
    name,
    baseImageArn: `arn:aws:lambda:${REGION}:aws:microvm-image:al2023-1`,
    buildRoleArn: `arn:aws:iam::${ACCOUNT}:role/build`,
    codeArtifact: { uri: 's3://code/app.zip' },
    resources: [{ minimumMemoryInMiB: 512 }],
  };
}

async function codeStore(dir: string): Promise<ObjectStore> {
  const objects = await createObjectStore({ dir });
  await objects.createBucket('code');
  const zip = new ZipFile();
  zip.addBuffer(Buffer.from('FROM base\n'), 'Dockerfile');
  zip.end();
  await objects.put('code', 'app.zip', zip.outputStream as AsyncIterable<Buffer>);
  return objects;
}
