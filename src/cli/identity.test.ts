import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { createFakeEngine } from '../engine/index.ts';
import { startFakeServer } from './test-server.ts';

/** Runs `rekindle identity …` as a process. */
function identity(args: readonly string[], env: Record<string, string> = {}) {
  const main = join(import.meta.dirname, 'main.ts');
  const { PATH = '', HOME = '' } = process.env;
  return new Promise<{ exitCode: number; stdout: string; stderr: string }>((resolve) => {
    execFile(
      process.execPath,
      [main, 'identity', ...args],
      { env: { PATH, HOME, ...env } },
      (error, stdout, stderr) => {
        resolve({ exitCode: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
      },
    );
  });
}

const image = 'arn:aws:lambda:us-east-1:000000000000:microvm-image:shop';

test('users, keys, roles and policies are made, listed, explained and removed from the command line', async () => {
  await using home = await startFakeServer(async () => createFakeEngine());
  const run = async (...args: string[]) => {
    const ended = await identity([...args, '--state', home.stateDir]);
    assert.equal(ended.exitCode, 0, `${args.join(' ')}: ${ended.stderr}`);
    return ended.stdout;
  };
  assert.equal(await run('user', 'create', 'ann'), 'arn:aws:iam::000000000000:user/ann\n');
  assert.equal(await run('role', 'create', 'build'), 'arn:aws:iam::000000000000:role/build\n');
  const key = JSON.parse(await run('key', 'create', 'ann', '--json'));
  assert.match(await run('key', 'ls', 'ann'), new RegExp(`^${key.accessKeyId} `, 'm'));
  assert.ok(!(await run('key', 'ls', 'ann', '--json')).includes(key.secretAccessKey));

  const role = 'arn:aws:iam::000000000000:role/build';
  assert.match(await run('role', 'revoke', 'build'), new RegExp(`^${role} gives no credentials`));
  assert.match(await run('role', 'revoked'), new RegExp(`^${role} `, 'm'));
  assert.equal(await run('role', 'restore', role), `${role} gives credentials again\n`);
  assert.equal(await run('role', 'revoked'), 'No role is revoked.\n');

  const file = join(home.stateDir, 'policy.json');
  const Condition = { StringEquals: { 'aws:ResourceTag/team': 'a' } };
  const allow = { Sid: 'Run', Effect: 'Allow', Action: 'lambda:RunMicrovm', Resource: image, Condition };
  const document = JSON.stringify({ Version: '2012-10-17', Statement: allow });
  await writeFile(file, document);
  assert.equal(await run('policy', 'put', '--user', 'ann', 'run-shop', file), 'user ann has the policy run-shop\n');
  assert.equal(await run('policy', 'show', '--user', 'ann', 'run-shop'), `${document}\n`);
  assert.equal(await run('policy', 'ls', '--user', 'ann'), 'run-shop\n');
  assert.match(await run('user', 'ls'), /^ann .* run-shop$/m);

  const question = ['explain', '--user', 'ann', '--action', 'lambda:RunMicrovm', '--resource', image];
  const denied = await run(...question);
  assert.match(
    denied,
    /^DENIED because no statement allows it: arn:aws:iam::000000000000:user\/ann, lambda:RunMicrovm/,
  );
  assert.match(
    denied,
    /run-shop +1 \(Run\) +Allow +no: its condition StringEquals on aws:ResourceTag\/team does not hold/,
  );
  const allowed = await run(...question, '--context', 'aws:ResourceTag/team=a', '--json');
  assert.equal(JSON.parse(allowed).outcome, 'allowed');
  const other = await run('explain', '--role', 'build', '--action', 'lambda:RunMicrovm');
  assert.match(other, /role build has no policy/);

  assert.match(await run('policy', 'rm', '--user', 'ann', 'run-shop'), /no policy run-shop any more/);
  assert.match(await run('key', 'rm', 'ann', key.accessKeyId), /works no more/);
  assert.match(await run('user', 'rm', 'ann'), /gone/);
  assert.match(await run('role', 'rm', 'build'), /gone/);
  assert.match(await run('user', 'ls'), /^No users/);
});

test('a malformed policy is refused with the statement it is about, wrong usage with exit code 2', async () => {
  await using home = await startFakeServer(async () => createFakeEngine());
  const state = ['--state', home.stateDir];
  await identity(['user', 'create', 'ann', ...state]);
  const file = join(home.stateDir, 'policy.json');
  await writeFile(file, JSON.stringify({ Statement: { Sid: 'Bad', Effect: 'Allow', Action: 'Run', Resource: '*' } }));
  const refused = await identity(['policy', 'put', '--user', 'ann', 'p', file, ...state]);
  assert.equal(refused.exitCode, 1);
  assert.match(refused.stderr, /Statement 1 \("Bad"\): "Run" is not an action/);
  for (const args of [
    ['policy', 'ls'],
    ['policy', 'ls', '--user', 'ann', '--role', 'x'],
    ['policy', 'put', '--user', 'ann', 'p', join(home.stateDir, 'absent.json')],
    ['explain', '--user', 'ann'],
    ['explain', '--user', 'ann', '--action', 'a:B', '--context', 'x'],
    [],
  ]) {
    const ended = await identity(args.length === 0 ? [] : [...args, ...state]);
    assert.equal(ended.exitCode, 2, `${args.join(' ')}: ${ended.stderr}`);
  }
});

test('identities are changed by who may change them, and read by who may read them', async () => {
  await using home = await startFakeServer(async () => createFakeEngine());
  const state = ['--state', home.stateDir];
  await identity(['user', 'create', 'ann', ...state]);
  const key = JSON.parse((await identity(['key', 'create', 'ann', '--json', ...state])).stdout);
  const asAnn = {
    AWS_ENDPOINT_URL_LAMBDA_MICROVMS: home.server.apiUrl,
    AWS_ACCESS_KEY_ID: key.accessKeyId,
    AWS_SECRET_ACCESS_KEY: key.secretAccessKey,
  };
  const listed = await identity(['user', 'ls'], asAnn);
  assert.equal(listed.exitCode, 1);
  assert.match(listed.stderr, /user\/ann is not authorized to perform: rekindle:ReadIdentity on resource: \* because/);

  const file = join(home.stateDir, 'policy.json');
  await writeFile(file, JSON.stringify({ Statement: { Effect: 'Allow', Action: 'rekindle:Read*', Resource: '*' } }));
  await identity(['policy', 'put', '--user', 'ann', 'reader', file, ...state]);
  assert.match((await identity(['user', 'ls'], asAnn)).stdout, /^ann /m);
  const raised = await identity(['policy', 'put', '--user', 'ann', 'more', file], asAnn);
  assert.match(raised.stderr, /perform: rekindle:ChangeIdentity on resource: arn:aws:iam::000000000000:user\/ann/);
});
