/** Commands that meet each other, through the wire and the real rooms; only the machines are fake. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { Agent, request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { LambdaMicrovms } from '@aws-sdk/client-lambda-microvms';
import { PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { ZipFile } from 'yazl';
import { startFakeServer } from '../src/cli/test-server.ts';
import { createFakeDisk, createFakeEngine, type FakeDisk, type FakeEngine } from '../src/engine/index.ts';
import { provisionsOf, readAccessKey } from '../src/home/index.ts';
import type { Server } from '../src/main.ts';

const IDLE = { maxIdleDurationSeconds: 900, suspendedDurationSeconds: 900, autoResumeEnabled: true };

test('an image is not deleted beside a launch, and not launched once it is being deleted', async () => {
  await using bench = await open();
  const { sdk, engine } = bench;
  const image = await bench.image('app');
  const gate = engine.hold('launch');
  const id = await bench.run(image);
  await assert.rejects(sdk.deleteMicrovmImage({ imageIdentifier: image }), /running microvms/);
  gate[Symbol.dispose]();
  await bench.state(id, 'RUNNING');
  await sdk.terminateMicrovm({ microvmIdentifier: id });
  await bench.state(id, 'TERMINATED');
  await sdk.deleteMicrovmImage({ imageIdentifier: image });
  await assert.rejects(bench.run(image));
  await until(async () => (await bench.images()).length === 0);
});

test('of a launch and the removal of its image in the same moment, one is refused', async () => {
  await using bench = await open();
  const { sdk } = bench;
  for (let round = 0; round < 8; round++) {
    const image = await bench.image(`app-${round}`);
    const calls = [() => bench.run(image), () => sdk.deleteMicrovmImage({ imageIdentifier: image })] as const;
    const order = round % 2 === 0 ? calls : calls.toReversed();
    const outcomes = await Promise.allSettled(order.map((call) => call()));
    assert.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 1, JSON.stringify(outcomes));
    const { items = [] } = await sdk.listMicrovms({ imageIdentifier: image });
    for (const { microvmId = '' } of items) {
      await bench.state(microvmId, 'RUNNING');
      await sdk.terminateMicrovm({ microvmIdentifier: microvmId });
      await bench.state(microvmId, 'TERMINATED');
    }
    if (items.length === 0) await until(async () => !(await bench.images()).includes(image));
  }
});

test('a version deactivated during a launch lets that one come, suspend and resume, and no other begin', async () => {
  await using bench = await open();
  const { sdk, engine } = bench;
  const image = await bench.image('app');
  const gate = engine.hold('launch');
  const id = await bench.run(image);
  const version = { imageIdentifier: image, imageVersion: '1.0' };
  await sdk.updateMicrovmImageVersion({ ...version, status: 'INACTIVE' });
  gate[Symbol.dispose]();
  await bench.state(id, 'RUNNING');
  await sdk.suspendMicrovm({ microvmIdentifier: id });
  await bench.state(id, 'SUSPENDED');
  await sdk.resumeMicrovm({ microvmIdentifier: id });
  await bench.state(id, 'RUNNING');
  await assert.rejects(bench.run(image), { name: 'ResourceNotFoundException' });
  const [launched, deactivated] = await Promise.allSettled([
    sdk.updateMicrovmImageVersion({ ...version, status: 'ACTIVE' }).then(() => bench.run(image)),
    sdk.updateMicrovmImageVersion({ ...version, status: 'INACTIVE' }),
  ]);
  assert.equal(deactivated.status, 'fulfilled');
  if (launched.status === 'fulfilled') await bench.state(launched.value, 'RUNNING');
});

test('no token is made for a microVM that is dying, and one made before wakes nothing', async () => {
  await using bench = await open();
  const { sdk, engine } = bench;
  const id = await bench.run(await bench.image('app'));
  await bench.state(id, 'RUNNING');
  await sdk.suspendMicrovm({ microvmIdentifier: id });
  await bench.state(id, 'SUSPENDED');
  const { endpoint = '' } = await sdk.getMicrovm({ microvmIdentifier: id });
  const asked = { microvmIdentifier: id, expirationInMinutes: 1, allowedPorts: [{ port: 8080 }] };
  const { authToken = {} } = await sdk.createMicrovmAuthToken(asked);
  const gate = engine.hold('destroy');
  await sdk.terminateMicrovm({ microvmIdentifier: id });
  await assert.rejects(sdk.createMicrovmAuthToken(asked), { name: 'ValidationException' });
  const ca = await readFile(join(bench.stateDir, 'tls/ca.pem'));
  assert.ok((await statusOf(`https://${endpoint}/`, { ca, headers: authToken })) >= 500);
  gate[Symbol.dispose]();
  await bench.state(id, 'TERMINATED');
  assert.ok(!engine.calls.includes(`resume ${id}`));
});

test('a server stopped during everything leaves the next one nothing it cannot bring to rest', async () => {
  const disk = createFakeDisk();
  const stateDir = await mkdtemp(join(tmpdir(), 'rekindle-races-'));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rm(stateDir, { recursive: true }));
  const ids = { launching: '', resuming: '', suspending: '', ending: '', asleep: '' };
  let building: string;
  {
    await using bench = await open({ disk, stateDir });
    const { sdk, engine } = bench;
    const image = await bench.image('app');
    for (const name of ['resuming', 'suspending', 'ending', 'asleep'] as const) {
      ids[name] = await bench.run(image);
      await bench.state(ids[name], 'RUNNING');
    }
    for (const id of [ids.resuming, ids.asleep]) {
      await sdk.suspendMicrovm({ microvmIdentifier: id });
      await bench.state(id, 'SUSPENDED');
    }
    const destroys = engine.hold('destroy');
    for (const operation of ['launch', 'resumed', 'suspend', 'build'] as const) engine.hold(operation);
    building = await bench.beginImage('later');
    ids.launching = await bench.run(image);
    await sdk.resumeMicrovm({ microvmIdentifier: ids.resuming });
    await sdk.suspendMicrovm({ microvmIdentifier: ids.suspending });
    await sdk.terminateMicrovm({ microvmIdentifier: ids.ending });
    await until(async () =>
      ['build', 'destroy', 'resume'].every((call) => engine.calls.some((c) => c.startsWith(call))),
    );
    const stopped = bench.stop();
    destroys[Symbol.dispose]();
    await stopped;
  }
  await using after = await open({ disk, stateDir });
  await after.state(ids.ending, 'TERMINATED');
  await after.state(ids.launching, 'RUNNING');
  for (const id of [ids.resuming, ids.suspending]) {
    await until(async () => ['RUNNING', 'SUSPENDED'].includes(await after.stateOf(id)));
  }
  assert.equal(await after.stateOf(ids.asleep), 'SUSPENDED');
  const { state } = await after.sdk.getMicrovmImage({ imageIdentifier: building });
  assert.equal(state, 'CREATE_FAILED');
  assert.ok(!disk.processes.has(ids.ending));
});

interface Bench extends AsyncDisposable {
  readonly sdk: LambdaMicrovms;
  readonly engine: FakeEngine;
  readonly stateDir: string;
  beginImage(name: string): Promise<string>;
  image(name: string): Promise<string>;
  images(): Promise<readonly string[]>;
  run(imageIdentifier: string): Promise<string>;
  stateOf(microvmId: string): Promise<string>;
  state(microvmId: string, state: string): Promise<void>;
  stop(): Promise<void>;
}

/** A server over fake machines; the folder is the caller's when they give one. */
async function open({
  disk = createFakeDisk(),
  stateDir,
}: {
  disk?: FakeDisk;
  stateDir?: string;
} = {}): Promise<Bench> {
  await using stack = new AsyncDisposableStack();
  const engine = createFakeEngine({ disk, adopts: true });
  const settings = { shutdownSeconds: '1', ...(stateDir !== undefined && { state: stateDir }) };
  const started = stack.use(await startFakeServer(async () => engine, settings));
  const { server } = started;
  const { sdk, upload, baseImageArn, buildRoleArn, bucket } = clientsOf(server, started.stateDir, stack);
  await upload();
  const stateOf = async (microvmIdentifier: string) => (await sdk.getMicrovm({ microvmIdentifier })).state ?? '';
  const beginImage = async (name: string) => {
    const codeArtifact = { uri: `s3://${bucket}/a.zip` };
    const { imageArn = '' } = await sdk.createMicrovmImage({ name, baseImageArn, buildRoleArn, codeArtifact });
    return imageArn;
  };
  const owned = stack.move();
  return {
    sdk,
    engine,
    stateDir: started.stateDir,
    beginImage,
    image: async (name) => {
      const imageIdentifier = await beginImage(name);
      await until(async () => (await sdk.getMicrovmImage({ imageIdentifier })).state === 'CREATED');
      return imageIdentifier;
    },
    images: async () => ((await sdk.listMicrovmImages({})).items ?? []).map(({ imageArn = '' }) => imageArn),
    run: async (imageIdentifier) => (await sdk.runMicrovm({ imageIdentifier, idlePolicy: IDLE })).microvmId ?? '',
    stateOf,
    state: (id, wanted) => until(async () => (await stateOf(id)) === wanted),
    stop: () => server.stop(),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function clientsOf(server: Server, stateDir: string, stack: AsyncDisposableStack) {
  const credentials = readAccessKey(stateDir);
  assert.ok(credentials);
  const common = { region: server.record.region, credentials };
  const sdk = new LambdaMicrovms({ ...common, endpoint: server.apiUrl });
  const s3 = new S3Client({ ...common, endpoint: server.s3Url, forcePathStyle: true });
  stack.defer(() => {
    sdk.destroy();
    s3.destroy();
  });
  const { artifactBucket: bucket, baseImageArn, buildRoleArn } = provisionsOf(server.record);
  const upload = async () => {
    const zip = new ZipFile();
    zip.addBuffer(Buffer.from('FROM scratch\n'), 'Dockerfile');
    zip.end();
    const chunks: Buffer[] = [];
    for await (const chunk of zip.outputStream) chunks.push(chunk as Buffer);
    await s3.send(new PutObjectCommand({ Bucket: bucket, Key: 'a.zip', Body: Buffer.concat(chunks) }));
  };
  return { sdk, upload, bucket, baseImageArn, buildRoleArn };
}

function statusOf(
  url: string,
  { ca, headers }: { ca: Buffer; headers: Readonly<Record<string, string>> },
): Promise<number> {
  const agent = new Agent({ ca });
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  request(url, { agent, headers }, (response) => resolve(response.resume().statusCode ?? 0))
    .on('error', reject)
    .end();
  return promise.finally(() => agent.destroy());
}

/** Asks again each time the event loop turns; the test's own timeout bounds it. */
async function until(isTrue: () => Promise<boolean>): Promise<void> {
  while (!(await isTrue())) await new Promise(setImmediate);
}
