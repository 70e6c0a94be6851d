/**
 * The service's quick start with the AWS CLI, command by command as its guide has a reader type them: artifact into a bucket,
 * image, microVM, token, suspend and resume, clean-up.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { setUpPythonClients } from '../../scripts/testing/python-clients.ts';
import { sleep } from '../../src/lib/index.ts';
import { account, baseImageArn, createApiBench, region } from '../support/api-bench.ts';
import { environmentOf } from '../support/clients.ts';
import { rawZip } from '../support/raw-zip.ts';

const python = await setUpPythonClients({
  env: process.env,
  signal: AbortSignal.timeout(240_000),
  say: (line) => process.stderr.write(`test: ${line}\n`),
});
const skip = python.kind === 'missing' && python.reason;

test('the quick start works command by command with the AWS CLI', { skip }, async () => {
  await using stack = new AsyncDisposableStack();
  const bench = stack.use(await createApiBench());
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-quick-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const program = python.kind === 'ready' ? python.aws : '';
  const aws = async (...args: readonly string[]) => {
    const options = { env: environmentOf(bench), cwd: dir, timeout: 60_000 };
    const { stdout } = await promisify(execFile)(program, [...args], options);
    return stdout.trim();
  };
  const microvms = async (...args: readonly string[]) =>
    JSON.parse((await aws('lambda-microvms', ...args, '--output', 'json')) || '{}') as Record<string, unknown>;
  const settled = async (wanted: string, ...args: readonly string[]) => {
    for (let tries = 0; tries < 60; tries++) {
      if ((await microvms(...args)).state === wanted) return;
      await sleep(50);
    }
    assert.fail(`never ${wanted}`);
  };

  await writeFile(
    join(dir, 'app.zip'),
    rawZip([{ name: 'Dockerfile', content: `FROM public.ecr.aws/lambda/microvms:al2023-minimal\n` }]),
  );
  await aws('s3', 'mb', 's3://my-artifacts');
  await aws('s3', 'cp', 'app.zip', 's3://my-artifacts/app.zip', '--no-progress');
  assert.match(await aws('s3', 'ls', 's3://my-artifacts/'), /app\.zip$/);

  const image = await microvms(
    'create-microvm-image',
    ...['--name', 'my-image', '--base-image-arn', baseImageArn],
    ...['--build-role-arn', `arn:aws:iam::${account}:role/MicrovmBuildRole`],
    ...['--code-artifact', 'uri=s3://my-artifacts/app.zip'],
    ...['--resources', 'minimumMemoryInMiB=512', '--environment-variables', 'STAGE=test', '--tags', 'team=a'],
  );
  const imageArn = `arn:aws:lambda:${region}:${account}:microvm-image:my-image`;
  assert.deepEqual([image.imageArn, image.state], [imageArn, 'CREATING']);
  await settled('CREATED', 'get-microvm-image', '--image-identifier', imageArn);

  const run = await microvms(
    'run-microvm',
    ...['--image-identifier', imageArn, '--maximum-duration-in-seconds', '3600'],
    '--idle-policy',
    'maxIdleDurationSeconds=300,suspendedDurationSeconds=600,autoResumeEnabled=true',
  );
  const on = ['--microvm-identifier', String(run.microvmId)];
  await settled('RUNNING', 'get-microvm', ...on);
  const ports = ['--expiration-in-minutes', '30', '--allowed-ports', 'port=8080'];
  const { authToken } = await microvms('create-microvm-auth-token', ...on, ...ports);
  assert.deepEqual(Object.keys(authToken as object), ['X-aws-proxy-auth']);

  await microvms('suspend-microvm', ...on);
  await settled('SUSPENDED', 'get-microvm', ...on);
  await microvms('resume-microvm', ...on);
  await settled('RUNNING', 'get-microvm', ...on);
  assert.equal(
    await aws('lambda-microvms', 'list-microvms', '--query', 'items[].state', '--output', 'text'),
    'RUNNING',
  );

  await microvms('terminate-microvm', ...on);
  await settled('TERMINATED', 'get-microvm', ...on);
  await microvms('delete-microvm-image', '--image-identifier', imageArn);
  await assert.rejects(
    aws('lambda-microvms', 'get-microvm', '--microvm-identifier', 'microvm-none'),
    /ResourceNotFoundException/,
  );
  await aws('s3', 'rb', 's3://my-artifacts', '--force');
});

test('a file of 20 MB goes up in parts and comes back whole, and is copied within the store', { skip }, async () => {
  await using stack = new AsyncDisposableStack();
  const bench = stack.use(await createApiBench());
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-cp-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const program = python.kind === 'ready' ? python.aws : '';
  const s3 = (...args: readonly string[]) =>
    promisify(execFile)(program, ['s3', ...args], { env: environmentOf(bench), cwd: dir, timeout: 60_000 });
  await writeFile(join(dir, 'big.bin'), Buffer.alloc(20_000_000, 'rekindle '));
  await s3('cp', 'big.bin', 's3://artifacts/big.bin', '--no-progress');
  assert.match((await bench.objects.head('artifacts', 'big.bin')).etag, /^[0-9a-f]{32}-3$/);
  await s3('cp', 's3://artifacts/big.bin', 's3://artifacts/copy.bin', '--no-progress');
  await s3('cp', 's3://artifacts/copy.bin', 'back.bin', '--no-progress');
  await promisify(execFile)('cmp', [join(dir, 'big.bin'), join(dir, 'back.bin')]);
});
