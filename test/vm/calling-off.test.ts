/** Builds that are deleted or lose their server while the builder machine works: what is left of them, and what stays in charge. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { type ArtifactFiles, buildImage, counterApp, zipped } from '../support/images.ts';
import { startServer, type TestServer } from '../support/server.ts';

const POLL_MS = 100;
const TIMEOUT_MS = 300_000;
const ENDLESS: ArtifactFiles = {
  ...counterApp,
  Dockerfile: 'FROM public.ecr.aws/lambda/microvms:al2023-minimal\nRUN echo step-began && sleep 3600\nCMD ["true"]\n',
};

describe('a build that is under way', () => {
  let server: TestServer;
  let stateDir: string;
  let imageArn: string;

  before(async () => {
    stateDir = await mkdtemp(join(tmpdir(), 'rekindle-test-'));
    server = await startServer({ stateDir });
    const image = await buildImage(server, 'app', counterApp);
    assert.equal(image.state, 'CREATED', image.stateReason ?? '');
    imageArn = image.imageArn;
  });
  after(async () => {
    await server[Symbol.asyncDispose]();
    await rm(stateDir, { recursive: true, force: true });
  });

  test('ends within seconds when its version is deleted, and the version before it stays in charge', async (t) => {
    const version = await update(server, imageArn, ENDLESS);
    const build = await stepBegan(stateDir);
    assert.equal(machinesOf(build).length > 0, true);
    const startedAt = performance.now();
    const deleted = await server.microvms.deleteMicrovmImageVersion({
      imageIdentifier: imageArn,
      imageVersion: version,
    });
    assert.equal(deleted.state, 'DELETING');
    const image = await settled(server, imageArn);
    t.diagnostic(`gone after ${Math.round(performance.now() - startedAt)} ms`);
    assert.deepEqual([image.state, image.latestActiveImageVersion], ['UPDATED', '1.0']);
    nothingIsLeftOf(stateDir, build);
    assert.equal(existsSync(join(stateDir, 'logs/builds', `${build.buildId}.log`)), false);
    await assert.rejects(server.microvms.getMicrovmImageVersion({ imageIdentifier: imageArn, imageVersion: version }), {
      name: 'ResourceNotFoundException',
    });
  });

  test('is FAILED with its reason when the server is killed, and leaves nothing that goes on', async () => {
    const version = await update(server, imageArn, ENDLESS);
    const build = await stepBegan(stateDir);
    process.kill(server.pid, 'SIGKILL');
    await server.stop();
    server = await startServer({ stateDir });
    const image = await settled(server, imageArn);
    assert.deepEqual([image.state, image.latestActiveImageVersion], ['UPDATE_FAILED', '1.0']);
    const { items } = await server.microvms.listMicrovmImageBuilds({
      imageIdentifier: imageArn,
      imageVersion: version,
    });
    assert.match(items?.[0]?.stateReason ?? '', /interrupted because the server stopped/);
    nothingIsLeftOf(stateDir, build);
  });

  test('and was killed cost its owner no cache: an unchanged build follows from it', async () => {
    const version = await update(server, imageArn, counterApp);
    const image = await settled(server, imageArn);
    assert.deepEqual([image.state, image.latestActiveImageVersion], ['UPDATED', version]);
    const logs = readdirSync(join(stateDir, 'logs/builds')).map((name) => join(stateDir, 'logs/builds', name));
    const texts = await Promise.all(logs.map((file) => readFile(file, 'utf8')));
    assert.equal(texts.filter((text) => text.includes('nothing changed since an earlier build')).length, 1);
  });
});

async function update(server: TestServer, imageIdentifier: string, files: ArtifactFiles): Promise<string> {
  const bucket = server.env.REKINDLE_ARTIFACT_BUCKET ?? '';
  await server.s3.putObject({ Bucket: bucket, Key: 'update.zip', Body: await zipped(files) });
  const updated = await server.microvms.updateMicrovmImage({
    imageIdentifier,
    baseImageArn: server.env.REKINDLE_BASE_IMAGE_ARN ?? '',
    buildRoleArn: server.env.REKINDLE_BUILD_ROLE_ARN ?? '',
    codeArtifact: { uri: `s3://${bucket}/update.zip` },
    resources: [{ minimumMemoryInMiB: 512 }],
  });
  return updated.imageVersion ?? '';
}

interface RunningBuild {
  readonly buildId: string;
  /** May be that of an earlier build. */
  readonly machineId: string;
}

/** Resolves with the build whose endless step runs. */
async function stepBegan(stateDir: string): Promise<RunningBuild> {
  return until('the step runs', async () => {
    const [machineId] = readdirSync(join(stateDir, 'run')).filter((id) => id.startsWith('builder-'));
    const [buildId] = existsSync(join(stateDir, 'builds')) ? readdirSync(join(stateDir, 'builds')) : [];
    const log = buildId && (await readFile(join(stateDir, 'logs/builds', `${buildId}.log`), 'utf8').catch(() => ''));
    if (machineId === undefined || !log?.match(/^#\d+ [\d.]+ step-began/m)) return undefined;
    return { buildId: `${buildId}`, machineId };
  });
}

async function settled(server: TestServer, imageIdentifier: string) {
  return until('the image settles', async () => {
    const image = await server.microvms.getMicrovmImage({ imageIdentifier });
    return image.state === 'UPDATING' ? undefined : image;
  });
}

async function until<T>(what: string, look: () => Promise<T | undefined>): Promise<T> {
  const deadline = performance.now() + TIMEOUT_MS;
  while (performance.now() < deadline) {
    const found = await look();
    if (found !== undefined) return found;
    await delay(POLL_MS);
  }
  throw new Error(`gave up waiting until ${what}`);
}

function nothingIsLeftOf(stateDir: string, build: RunningBuild): void {
  assert.deepEqual(machinesOf(build), []);
  for (const folder of ['builds', 'run']) {
    const left = existsSync(join(stateDir, folder)) ? readdirSync(join(stateDir, folder)) : [];
    assert.deepEqual(left, [], folder);
  }
  const caches = readdirSync(join(stateDir, 'builder-cache'), { recursive: true, encoding: 'utf8' });
  assert.deepEqual(
    caches.filter((name) => name.endsWith('.draft') || name.endsWith('.work')),
    [],
  );
  assert.equal(existsSync(join(stateDir, 'gateway/net', build.machineId)), false);
  assert.deepEqual(readdirSync(join(stateDir, 'images/app')), ['1.0']);
}

/** Processes of the build's machine. */
function machinesOf({ machineId }: RunningBuild): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      const words = readFileSync(join('/proc', pid, 'cmdline'), 'utf8').split('\0');
      return words.includes(machineId);
    } catch {
      return false;
    }
  });
}
