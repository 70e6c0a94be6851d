import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createFakeEngine, type FakeEngine } from '../engine/index.ts';
import { startFakeServer } from './test-server.ts';

interface Ended {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command line as a process, in an environment without anything of this user's servers. */
function rekindle(args: readonly string[], env: Record<string, string> = {}): Promise<Ended> {
  const main = join(import.meta.dirname, 'main.ts');
  const { PATH = '', HOME = '' } = process.env;
  return new Promise((resolve) => {
    execFile(process.execPath, [main, ...args], { env: { PATH, HOME, ...env } }, (error, stdout, stderr) => {
      resolve({ exitCode: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
    });
  });
}

const example = join(import.meta.dirname, '../../examples/counter');

test('one microVM from folder to end: build, run, ls, url, curl, suspend, wake, logs, resume, rm', async () => {
  let engine: FakeEngine | undefined;
  await using home = await startFakeServer(async () => {
    engine = createFakeEngine({ buildLog: '#1 RUN something\n' });
    return engine;
  });
  const run = (...args: string[]) => rekindle([...args, '--state', home.stateDir]);
  const built = await run('images', 'build', example);
  assert.equal(built.exitCode, 0, built.stderr);
  assert.match(built.stdout, /^arn:aws:lambda:us-east-1:000000000000:microvm-image:counter\n$/);
  assert.match(built.stderr, /#1 RUN something/);
  assert.match((await run('images', 'ls')).stdout, /^counter +CREATED +1\.0 /m);
  assert.match((await run('images', 'log', 'counter')).stdout, /#1 RUN something/);

  const launched = await run('run', 'counter');
  assert.match(launched.stdout, /^microvm-[0-9a-f-]{36}\n$/);
  const id = launched.stdout.trim();
  assert.match((await run('ls')).stdout, new RegExp(`^${id} +RUNNING +counter 1.0 `, 'm'));
  assert.match((await run('url', id)).stdout, /^https:\/\/localhost:\d+\n$/);
  assert.match((await run('url', id, '--token')).stdout, /^curl --cacert \S+ca\.pem -H 'X-aws-proxy-auth: \S+' https:/);
  assert.equal((await run('curl', id, '/')).stdout, JSON.stringify({ id, count: 1 }));
  engine?.print(id, 'said by the app');
  assert.equal((await run('suspend', id)).stdout, `${id} is SUSPENDED\n`);
  assert.equal((await run('curl', id, '/')).stdout, JSON.stringify({ id, count: 2 }), 'it woke with its memory');

  assert.equal((await run('logs', id)).stdout, 'said by the app\n');
  await run('suspend', id);
  assert.equal((await run('resume', id)).stdout, `${id} is RUNNING\n`);
  assert.match((await run('rotate-token-key')).stdout, /made with the key [0-9a-f-]{36}; issued ones stay good/);
  assert.match((await run('drain')).stdout, /Drained: 1 microVMs are suspended/);
  assert.match((await run('resume', id)).stderr, /being drained/);
  assert.match((await run('run', 'counter')).stderr, /being drained/);
  assert.deepEqual(JSON.parse((await run('drain', '--off', '--json')).stdout), {
    draining: false,
    running: 0,
    suspended: 1,
  });
  assert.equal((await run('resume', id)).stdout, `${id} is RUNNING\n`);
  const removed = await run('rm', id, '--json');
  assert.deepEqual(JSON.parse(removed.stdout), [{ microvmId: id, state: 'TERMINATED' }]);
  assert.match((await run('ls')).stdout, /No microVMs/);
  const late = await run('curl', id, '/');
  assert.equal(late.exitCode, 1);

  const hooks = join(import.meta.dirname, '../../examples/from-zip/hooks.json');
  await run('images', 'build', example, '--quiet', '--hooks', hooks);
  assert.match((await run('images', 'ls')).stdout, /^counter +UPDATED +2\.0 /m);
  assert.match((await run('images', 'rm', 'counter')).stdout, /microvm-image:counter is DELETING/);
});

test('env prints export lines that a shell reads, and clients take them from there', async () => {
  await using home = await startFakeServer(async () => createFakeEngine());
  const plain = await rekindle(['env', '--state', home.stateDir]);
  const lines = plain.stdout.trimEnd().split('\n');
  const names = lines.map((line) => /^export ([A-Z0-9_]+)=\S+$/.exec(line)?.[1]);
  const wanted =
    'AWS_ENDPOINT_URL_LAMBDA_MICROVMS AWS_ENDPOINT_URL_LAMBDA_CORE AWS_ENDPOINT_URL_CLOUDWATCH_LOGS AWS_ENDPOINT_URL_S3 AWS_REGION AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_CA_BUNDLE NODE_EXTRA_CA_CERTS REKINDLE_BUILD_ROLE_ARN REKINDLE_EXECUTION_ROLE_ARN REKINDLE_BASE_IMAGE_ARN REKINDLE_ARTIFACT_BUCKET';
  for (const name of wanted.split(' ')) assert.ok(names.includes(name), name);
  const values = JSON.parse((await rekindle(['env', '--state', home.stateDir, '--json'])).stdout);
  assert.equal((await rekindle(['ls', '--json'], values)).stdout, '[]\n');

  const clash = await rekindle(['env', '--state', home.stateDir], { AWS_PROFILE: 'work', AWS_SESSION_TOKEN: 'x' });
  assert.match(clash.stdout, /^unset AWS_SESSION_TOKEN\nunset AWS_PROFILE$/m);
  const foreign = await rekindle(['ls'], { ...values, AWS_SECRET_ACCESS_KEY: 'wrong' });
  assert.equal(foreign.exitCode, 1);
  assert.match(foreign.stderr, /eval "\$\(rekindle env\)"/);
});

test('a failed build ends with exit code 4 and its reason; other refusals with 1 and the words of the server', async () => {
  await using home = await startFakeServer(async () => {
    const engine = createFakeEngine();
    const { BuildFailure } = await import('../engine/index.ts');
    engine.failNext('build', new BuildFailure('dockerfile-failed', 'RUN make: exit code 2', 2));
    return engine;
  });
  const failed = await rekindle(['images', 'build', example, '--name', 'broken', '--state', home.stateDir]);
  assert.equal(failed.exitCode, 4);
  assert.match(failed.stderr, /Building broken failed: \S+/);
  const unknown = await rekindle(['run', 'nothing', '--json', '--state', home.stateDir]);
  assert.equal(unknown.exitCode, 1);
  assert.match(JSON.parse(unknown.stderr).error.message, /nothing/);
});

test('wrong usage is 2, no server is 3, and both say what to do', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-cli-'));
  try {
    await writeFile(join(dir, 'app.py'), '');
    for (const args of [
      ['nonsense'],
      ['run'],
      [],
      ['curl', 'x', 'no-slash'],
      ['images', 'build', dir],
      ['images', 'build', example, '--hooks', join(dir, 'app.py')],
      ['rm'],
      ['serve', '--api-port', 'x'],
      ['run', 'a', '--idle', 'soon'],
    ]) {
      const ended = await rekindle([...args, ...(args[0] === 'rm' ? ['--state', dir] : [])]);
      assert.equal(ended.exitCode, 2, `${args.join(' ')}: ${ended.stderr}`);
    }
    const absent = await rekindle(['ls', '--state', dir]);
    assert.equal(absent.exitCode, 3);
    assert.match(absent.stderr, /rekindle serve/);
    const env = {
      AWS_ENDPOINT_URL_LAMBDA_MICROVMS: 'http://127.0.0.1:1',
      AWS_ACCESS_KEY_ID: 'a',
      AWS_SECRET_ACCESS_KEY: 'b',
    };
    assert.equal((await rekindle(['ls'], env)).exitCode, 3);
    for (const args of [['--help'], ['help', 'run'], ['images', 'build', '--help']]) {
      assert.equal((await rekindle(args)).exitCode, 0, args.join(' '));
    }
  } finally {
    await rm(dir, { recursive: true });
  }
});
