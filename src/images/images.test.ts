import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import type { RequestListener } from 'node:http';
import path from 'node:path';
import { test } from 'node:test';
import { BuildFailure, type BuildFailureKind, type FakeEngineOptions } from '../engine/index.ts';
import { isoDuration } from './failure-reason.ts';
import { ARN, BASE, type Bench, bench, INPUT } from './test-bench.ts';

async function failureOf(b: Bench): Promise<string | null | undefined> {
  await b.built();
  assert.equal((await b.images.get(ARN)).state, 'CREATE_FAILED');
  assert.equal((await b.images.get(ARN)).latestFailedImageVersion, '1.0');
  const version = await b.images.getVersion(ARN, '1.0');
  assert.deepEqual([version.state, version.status, version.stateReason], ['FAILED', 'INACTIVE', null]);
  const builds = await b.images.listBuilds(ARN, '1.0', {});
  assert.deepEqual([...new Set(builds.items.map((build) => build.buildState))], ['FAILED']);
  assert.equal(builds.items[0]?.stateReason, builds.items[1]?.stateReason);
  // Another image's build may be under way beside it.
  const left = await readdir(path.join(b.stateDir, 'builds')).catch(() => []);
  assert.deepEqual(
    left.filter((name) => builds.items.some(({ buildId }) => name === buildId)),
    [],
  );
  assert.ok(!existsSync(path.join(b.stateDir, 'images', 'demo', '1.0')));
  await assert.rejects(b.images.resolve(ARN), {
    code: 'NOT_FOUND',
    message: `No active version found for MicroVM image ${ARN}`,
  });
  return builds.items[0]?.stateReason;
}

test('a create answers at once with the defaults filled in, and the build follows', async () => {
  await using b = await bench();
  const created = await b.images.create(INPUT);
  assert.equal(created.state, 'CREATING');
  assert.equal(created.imageVersion, '1.0');
  assert.equal(created.baseImageVersion, '1.0');
  assert.deepEqual(created.resources, [{ minimumMemoryInMiB: 2048 }]);
  assert.deepEqual(created.egressNetworkConnectors, [
    'arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:INTERNET_EGRESS',
  ]);
  assert.equal(created.tags, null);
  assert.equal((await b.images.getVersion(ARN, '1.0')).status, 'INACTIVE');
  const log = await b.built();
  assert.match(log, /fetching s3:\/\/code\/demo\.zip[\s\S]*FROM base[\s\S]*app started[\s\S]*done/);
  assert.equal((await b.images.get(ARN)).state, 'CREATED');
  assert.equal((await b.images.get(ARN)).latestActiveImageVersion, '1.0');
  const version = await b.images.getVersion(ARN, '1.0');
  assert.deepEqual([version.state, version.status], ['SUCCESSFUL', 'ACTIVE']);
  assert.deepEqual(await readdir(path.join(b.stateDir, 'builds')), []);
});

test('each version has two builds, generation 4 before 3, with the sizes of the one real build', async () => {
  await using b = await bench();
  await b.images.create(INPUT);
  await b.built();
  const builds = await b.images.listBuilds(ARN, '1.0', {});
  assert.deepEqual(
    builds.items.map((build) => build.chipsetGeneration),
    ['4', '3'],
  );
  for (const { buildId } of builds.items) {
    assert.deepEqual((await b.images.getBuild(ARN, '1.0', buildId)).snapshotBuild, {
      codeInstallSizeInBytes: 100_000_000,
      memorySnapshotSizeInBytes: 124_000_000,
      diskSnapshotSizeInBytes: 300_000_000,
    });
  }
  assert.equal((await b.images.listBuilds(ARN, '1.0', { chipsetGeneration: '3' })).items.length, 1);
  await assert.rejects(b.images.getBuild(ARN, '1.0', 'nobody'), { code: 'NOT_FOUND' });
});

test('a built version can be launched from its snapshot', async () => {
  await using b = await bench();
  await b.images.create({ ...INPUT, resources: [{ minimumMemoryInMiB: 512 }] });
  await b.built();
  const version = await b.images.resolve(ARN, '1.0');
  assert.equal(version.memoryMiB, 512);
  assert.equal(version.snapshotDir, path.join(b.stateDir, 'images/demo/1.0/snapshot'));
  await using _machine = await b.engine.launch({ id: 'microvm-1', snapshotDir: version.snapshotDir }, {});
});

test('the app gets image ENV, the version variables and the four of the service, in that order', async () => {
  await using b = await bench({ engine: { config: { env: ['PATH=/bin', 'MODE=image'] } } });
  const seal = b.engine.seal.bind(b.engine);
  let env: readonly string[] = [];
  b.engine.seal = (request, options) => {
    env = request.config.env;
    return seal(request, options);
  };
  await b.images.create({ ...INPUT, environmentVariables: { MODE: 'version', A: '1' } });
  await b.built();
  assert.deepEqual(env, [
    'PATH=/bin',
    'MODE=version',
    'A=1',
    `AWS_LAMBDA_MICROVM_IMAGE_ARN=${ARN}`,
    'AWS_LAMBDA_MICROVM_IMAGE_NAME=demo',
    'AWS_LAMBDA_MICROVM_IMAGE_VERSION=1.0',
    'AWS_REGION=us-east-1',
  ]);
});

for (const [what, uri, reason] of [
  ['a missing bucket', 's3://nobody/demo.zip', /^S3_NO_SUCH_BUCKET: /],
  ['a missing key', 's3://code/nobody.zip', /^S3_NO_SUCH_KEY: /],
  ['an archive without a Dockerfile', 's3://code/bare.zip', /^ARCHIVE_DOCKERFILE_NOT_FOUND: /],
] as const) {
  test(`${what} fails the build with its code and leaves nothing`, async () => {
    await using b = await bench();
    await b.put('bare.zip', { 'app/Dockerfile': 'FROM base\n' });
    await b.images.create({ ...INPUT, codeArtifact: { uri } });
    assert.match((await failureOf(b)) ?? '', reason);
  });
}

const readyHooks = {
  port: 9000,
  microvmImageHooks: {
    ready: 'ENABLED',
    readyTimeoutInSeconds: 90,
    validate: 'ENABLED',
    validateTimeoutInSeconds: 600,
  },
} as const;

const reasons: Record<BuildFailureKind, string> = {
  'dockerfile-missing': 'ARCHIVE_DOCKERFILE_NOT_FOUND: There is no Dockerfile at the root of the archive.',
  'dockerfile-failed': 'The container image build failed.',
  'disk-full': 'DISK_STORAGE_FULL: The disk ran full during the build.',
  'host-disk-full':
    'DISK_STORAGE_FULL: The disk of this host ran full during the build. Free some space and build again.',
  'app-not-startable':
    'The application could not be started: its command, user or folders are not what a container needs. The last lines of the build log say more.',
  'app-exited': 'The application exited with code 3 before it was ready.',
  'no-command': 'The container image has neither ENTRYPOINT nor CMD, so there is no application to start.',
  'ready-timeout': 'Ready hook invocation timed out after PT1M30S',
  'ready-client-error': 'Ready hook check failed: the application returned a client error (HTTP 4xx) response',
  'ready-server-error': 'Ready hook check failed: the application returned a server error (HTTP 5xx) response',
};
for (const [kind, reason] of Object.entries(reasons) as [BuildFailureKind, string][]) {
  test(`${kind} stands on both builds as "${reason}"`, async () => {
    await using b = await bench();
    const operation = kind.startsWith('dockerfile') || kind.endsWith('disk-full') ? 'build' : 'seal';
    b.engine.failNext(operation, new BuildFailure(kind, kind, 3));
    await b.images.create({ ...INPUT, hooks: readyHooks });
    assert.equal(await failureOf(b), reason);
    const [build] = (await b.images.listBuilds(ARN, '1.0', {})).items;
    const { snapshotBuild } = await b.images.getBuild(ARN, '1.0', build?.buildId ?? '');
    assert.equal(snapshotBuild?.codeInstallSizeInBytes, operation === 'seal' ? 100_000_000 : undefined);
  });
}

test('what is the fault of the platform is said so without its words', async () => {
  await using b = await bench();
  b.engine.failNext('build', new Error('/secret/path'));
  await b.images.create(INPUT);
  const reason = await failureOf(b);
  assert.match(reason ?? '', /^INTERNAL_PLATFORM_ERROR: /);
  assert.doesNotMatch(reason ?? '', /secret/);
});

test('a full disk of the host is said to be that, wherever it was met', async () => {
  await using b = await bench();
  b.engine.failNext('build', new Error('write', { cause: Object.assign(new Error('no space'), { code: 'ENOSPC' }) }));
  await b.images.create(INPUT);
  assert.match((await failureOf(b)) ?? '', /^DISK_STORAGE_FULL: The disk of this host ran full/);
});

/** A validate hook that gives these statuses one after another. */
function validateApp(statuses: number[]): FakeEngineOptions {
  const listener: RequestListener = (request, response) => {
    assert.equal(`${request.method} ${request.url}`, 'POST /aws/lambda-microvms/runtime/v1/validate');
    response.statusCode = statuses.shift() ?? 500;
    response.end();
  };
  return { app: () => listener };
}

test('a validate hook is asked again after 503 and its clone thrown away', async () => {
  await using b = await bench({ engine: validateApp([503, 200]) });
  await b.images.create({ ...INPUT, hooks: readyHooks });
  await b.built();
  assert.equal((await b.images.get(ARN)).state, 'CREATED');
  assert.deepEqual(await b.engine.residue(), []);
});

test('a validate hook that refuses fails the build, snapshot and clone gone', async () => {
  await using b = await bench({ engine: validateApp([400]) });
  await b.images.create({ ...INPUT, hooks: readyHooks });
  assert.equal(
    await failureOf(b),
    'Validate hook check failed: the application returned a client error (HTTP 4xx) response',
  );
  assert.deepEqual(await b.engine.residue(), []);
});

test('durations read as ISO 8601 without zero parts', () => {
  assert.deepEqual([1, 60, 90, 300, 3600, 3661].map(isoDuration), [
    'PT1S',
    'PT1M',
    'PT1M30S',
    'PT5M',
    'PT1H',
    'PT1H1M1S',
  ]);
});

test('builds wait for each other in the order of the calls', async () => {
  await using b = await bench();
  const held = b.engine.hold('build');
  await b.images.create(INPUT);
  await b.images.create({ ...INPUT, name: 'second' });
  await b.clock.advance(0);
  assert.equal((await b.images.getVersion(ARN.replace('demo', 'second'), '1.0')).state, 'PENDING');
  held[Symbol.dispose]();
  await b.built('second');
  assert.equal((await b.images.get(ARN)).state, 'CREATED');
});

test('a name in use, a bad size, base, artifact or variable is refused before anything is written', async () => {
  await using b = await bench();
  await b.images.create(INPUT);
  await assert.rejects(b.images.create(INPUT), {
    code: 'INVALID',
    message: "A MicroVM image with the name 'demo' already exists in this account",
  });
  for (const [over, message] of [
    [{ resources: [{ minimumMemoryInMiB: 777 }] }, /\[512, 1024, 2048, 4096, 8192\]/],
    [{ baseImageVersion: '999' }, `No managed MicroVM Image with arn ${BASE} and version 999 is available`],
    [{ codeArtifact: { uri: 'registry/name:tag' } }, /s3:\/\/bucket\/key/],
    [{ environmentVariables: { AWS_REGION: 'x' } }, /AWS_REGION is reserved/],
    [{ hooks: { microvmHooks: { run: 'ENABLED' } } }, /hooks.port is required/],
    [{ egressNetworkConnectors: ['x'] }, 'Malformed network connector ARN'],
  ] as const) {
    await assert.rejects(b.images.create({ ...INPUT, name: 'other', ...over }), { code: 'INVALID', message });
  }
  assert.equal((await b.images.list({})).items.length, 1);
});

test('a client token used again returns the same image, and other parameters are a conflict', async () => {
  await using b = await bench();
  const first = await b.images.create({ ...INPUT, clientToken: 't' });
  assert.equal((await b.images.create({ ...INPUT, clientToken: 't' })).id, first.id);
  await assert.rejects(b.images.create({ ...INPUT, name: 'other', clientToken: 't' }), { code: 'CONFLICT' });
});

test('identifiers are full ARNs of this account', async () => {
  await using b = await bench();
  await assert.rejects(b.images.get('demo'), { code: 'INVALID', message: 'Invalid ARN format: demo' });
  await assert.rejects(b.images.resolve('demo'), {
    code: 'INVALID',
    message: "Malformed ARN - doesn't start with 'arn:'",
  });
  for (const foreign of [ARN.replace('000000000000', '111122223333'), ARN.replace('image:demo', 'image/demo')]) {
    await assert.rejects(b.images.get(foreign), { code: 'DENIED' });
  }
  await assert.rejects(b.images.get(ARN), {
    code: 'NOT_FOUND',
    message: `MicroVMImage not found for MicroVMImageID: ${ARN}`,
  });
  await b.images.create(INPUT);
  await assert.rejects(b.images.getVersion(ARN, '2.0'), {
    code: 'NOT_FOUND',
    message: `MicroVMImage not found for MicroVMImage: ${ARN}, Version: 2.0`,
  });
  await b.built();
  await assert.rejects(b.images.resolve(ARN, '2.0'), {
    code: 'NOT_FOUND',
    message: `No active version found for MicroVM image ${ARN} and version 2.0`,
  });
});

test('the list is paged first and filtered by name afterwards', async () => {
  await using b = await bench();
  for (const name of ['one', 'two', 'three']) {
    await b.images.create({ ...INPUT, name });
    await b.clock.advance(1);
  }
  const first = await b.images.list({ maxResults: 2, nameFilter: 'one' });
  assert.deepEqual(first.items, []);
  assert.ok(first.nextToken);
  const second = await b.images.list({ maxResults: 2, nameFilter: 'one', nextToken: first.nextToken });
  assert.deepEqual(
    second.items.map((image) => image.name),
    ['one'],
  );
  assert.equal(second.nextToken, null);
  assert.equal((await b.images.listVersions(ARN.replace('demo', 'one'), {})).items.length, 1);
});

test('a build that was interrupted is failed at the next start, one that had not begun is taken up', async () => {
  await using before = await bench();
  const held = before.engine.hold('build');
  await before.images.create(INPUT);
  await before.images.create({ ...INPUT, name: 'second' });
  const begun = new AbortController();
  for await (const chunk of before.images.buildLog(ARN, '1.0', { follow: true, signal: begun.signal })) {
    if (chunk.toString().includes('building the container image')) begun.abort();
  }
  const restarting = before.restart();
  held[Symbol.dispose]();
  await using after = await restarting;
  assert.match((await failureOf(after)) ?? '', /interrupted because the server stopped/);
  await after.built('second');
  assert.equal((await after.images.get(ARN.replace('demo', 'second'))).state, 'CREATED');
});

test('the managed base is listed, and only it', async () => {
  await using b = await bench();
  assert.deepEqual(
    (await b.images.managed.list({})).items.map((image) => image.imageArn),
    [BASE],
  );
  const [version] = (await b.images.managed.listVersions(BASE, {})).items;
  assert.deepEqual([version?.imageVersion, version?.status], ['1', 'AVAILABLE']);
  await assert.rejects(b.images.managed.listVersions(ARN, {}), { code: 'NOT_FOUND' });
});

test('a reader that gives up following a build log is released', async () => {
  await using b = await bench();
  using _held = b.engine.hold('build');
  await b.images.create(INPUT);
  const stop = new AbortController();
  for await (const chunk of b.images.buildLog(ARN, '1.0', { follow: true, signal: stop.signal })) {
    if (chunk.toString().includes('building the container image')) stop.abort();
  }
});
