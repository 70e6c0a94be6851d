import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { TestClock } from '../lib/index.ts';
import { openStore } from '../store/index.ts';
import { createIdentity, type OpenIdentity, openIdentity } from './index.ts';

const account = '000000000000';
const rootKeys = [{ accessKeyId: 'AKID', secretAccessKey: 'secret' }];
const image = 'arn:aws:lambda:us-east-1:000000000000:microvm-image:shop';
const ann = { kind: 'user', name: 'ann' } as const;

async function bench() {
  const folder = await mkdtemp(join(tmpdir(), 'rk-identity-'));
  const clock = new TestClock();
  return {
    /** Each with its own store: closing and opening is a restart. */
    use: async (work: (identity: OpenIdentity) => Promise<void>) => {
      await using store = await openStore(join(folder, 'store.sqlite'));
      await work(await openIdentity({ account, rootKeys, store, clock }));
    },
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  };
}

function check(name: string, work: (identity: OpenIdentity) => Promise<void>): void {
  test(name, async () => {
    await using files = await bench();
    await files.use(work);
  });
}

const policy = (...statements: object[]) => JSON.stringify({ Version: '2012-10-17', Statement: statements });

test("a configured key belongs to the account's root, any other key to nobody", () => {
  const identity = createIdentity({ account, rootKeys });
  assert.equal(identity.authenticate('AKID')?.principal.arn, 'arn:aws:iam::000000000000:root');
  assert.equal(identity.authenticate('AKID')?.secretAccessKey, 'secret');
  assert.equal(identity.authenticate('akid'), undefined);
  assert.equal(identity.authenticate('constructor'), undefined);
});

test('root may do everything', () => {
  const identity = createIdentity({ account, rootKeys });
  assert.deepEqual(identity.authorize(identity.root, 'lambda:RunMicrovm', '*'), { allowed: true });
});

check(
  'a key of a user authenticates as that user, until it or the user is removed',
  async ({ directory, ...identity }) => {
    const { arn } = await directory.create(ann);
    const key = await directory.createKey('ann');
    const found = identity.authenticate(key.accessKeyId);
    assert.match(key.accessKeyId, /^AKIA[A-Z2-7]{16}$/);
    assert.deepEqual([found?.principal.arn, found?.secretAccessKey], [arn, key.secretAccessKey]);
    await directory.removeKey('ann', key.accessKeyId);
    assert.equal(identity.authenticate(key.accessKeyId), undefined);
    const second = await directory.createKey('ann');
    await directory.remove(ann);
    assert.equal(identity.authenticate(second.accessKeyId), undefined);
  },
);

check(
  'a user may do what its policies allow, and the refusal is in the words of IAM',
  async ({ directory, ...identity }) => {
    await directory.create(ann);
    const key = await directory.createKey('ann');
    const principal = identity.authenticate(key.accessKeyId)?.principal ?? assert.fail();
    const run = (resource: string) => identity.authorize(principal, 'lambda:RunMicrovm', resource);
    assert.deepEqual(run(image), {
      allowed: false,
      because: 'because no identity-based policy allows the lambda:RunMicrovm action',
    });
    await directory.putPolicy(ann, 'run', policy({ Effect: 'Allow', Action: 'lambda:RunMicrovm', Resource: image }));
    assert.deepEqual(run(image), { allowed: true });
    assert.equal(run(`${image}-2`).allowed, false);
    await directory.putPolicy(ann, 'no', policy({ Effect: 'Deny', Action: '*', Resource: '*' }));
    assert.deepEqual(run(image), { allowed: false, because: 'with an explicit deny in an identity-based policy' });
    await directory.removePolicy(ann, 'no');
    assert.deepEqual(run(image), { allowed: true });
  },
);

check('who asks and when are known to conditions, whatever the wire claims', async ({ directory, ...identity }) => {
  await directory.create(ann);
  const { accessKeyId } = await directory.createKey('ann');
  const principal = identity.authenticate(accessKeyId)?.principal ?? assert.fail();
  const Condition = {
    StringEquals: { 'aws:username': 'ann', 'aws:PrincipalType': 'User' },
    ArnLike: { 'aws:PrincipalArn': 'arn:aws:iam::*:user/ann' },
    DateGreaterThan: { 'aws:CurrentTime': '2027-01-01' },
  };
  await directory.putPolicy(ann, 'p', policy({ Effect: 'Allow', Action: '*', Resource: '*', Condition }));
  assert.equal(identity.authorize(principal, 'a:B', '*', { 'aws:username': 'root' }).allowed, true);
});

check('a malformed policy is refused when it is put, and nothing changes', async ({ directory }) => {
  await directory.create(ann);
  const bad = policy({ Sid: 'Bad', Effect: 'Allow', Action: 'Run', Resource: '*' });
  await assert.rejects(directory.putPolicy(ann, 'p', bad), { code: 'INVALID', message: /^Statement 1 \("Bad"\)/ });
  assert.deepEqual(directory.get(ann).policies, []);
});

check('names, quotas and unknown things are refused', async ({ directory }) => {
  await directory.create(ann);
  await assert.rejects(directory.create(ann), { code: 'CONFLICT' });
  await assert.rejects(directory.create({ kind: 'user', name: 'a b' }), { code: 'INVALID' });
  await directory.create({ kind: 'role', name: 'ann' });
  await directory.createKey('ann');
  await directory.createKey('ann');
  await assert.rejects(directory.createKey('ann'), { code: 'QUOTA' });
  await assert.rejects(directory.createKey('bob'), { code: 'NOT_FOUND' });
  await assert.rejects(directory.removeKey('ann', 'AKID'), { code: 'NOT_FOUND' });
  const anything = policy({ Effect: 'Allow', Action: '*', Resource: '*' });
  await assert.rejects(directory.putPolicy(ann, 'a b', anything), { code: 'INVALID' });
  for (let n = 0; n < 10; n++) await directory.putPolicy(ann, `p${n}`, anything);
  await assert.rejects(directory.putPolicy(ann, 'p10', anything), { code: 'QUOTA' });
  await directory.putPolicy(ann, 'p9', anything);
  await assert.rejects(directory.removePolicy(ann, 'constructor'), { code: 'NOT_FOUND' });
  assert.throws(() => directory.policy(ann, 'toString'), { code: 'NOT_FOUND' });
  await assert.rejects(directory.remove({ kind: 'role', name: 'bob' }), { code: 'NOT_FOUND' });
});

check('no list and no view holds a secret', async ({ directory }) => {
  await directory.create(ann);
  const { secretAccessKey } = await directory.createKey('ann');
  const seen = JSON.stringify([directory.list('user'), directory.get(ann), directory.listKeys('ann')]);
  assert.ok(!seen.includes(secretAccessKey));
});

check('a removal that happens while a key is made wins', async ({ directory, ...identity }) => {
  await directory.create(ann);
  const [removed, made] = await Promise.allSettled([directory.remove(ann), directory.createKey('ann')]);
  assert.deepEqual([removed.status, made.status], ['fulfilled', 'rejected']);
  assert.deepEqual(directory.list('user'), []);
  assert.equal(identity.authenticate('ann'), undefined);
});

test('users, keys, roles and policies outlive a restart', async () => {
  await using files = await bench();
  let accessKeyId = '';
  const document = policy({ Effect: 'Allow', Action: 'lambda:*', Resource: '*' });
  await files.use(async ({ directory }) => {
    await directory.create(ann);
    await directory.create({ kind: 'role', name: 'build' });
    ({ accessKeyId } = await directory.createKey('ann'));
    await directory.putPolicy(ann, 'all', document);
  });
  await files.use(async ({ directory, ...identity }) => {
    const principal = identity.authenticate(accessKeyId)?.principal ?? assert.fail();
    assert.equal(identity.authorize(principal, 'lambda:GetMicrovm', image).allowed, true);
    assert.equal(identity.authorize(principal, 's3:GetObject', '*').allowed, false);
    assert.equal(directory.policy(ann, 'all'), document);
    assert.equal(directory.list('role')[0]?.arn, 'arn:aws:iam::000000000000:role/build');
    await directory.putPolicy(ann, 'more', document);
  });
});

check('an explanation shows the statements and what they were compared with', async ({ directory, explain }) => {
  await directory.create({ kind: 'role', name: 'build' });
  const role = { kind: 'role', name: 'build' } as const;
  const Condition = { StringEquals: { 'aws:ResourceTag/team': 'a' } };
  await directory.putPolicy(role, 'p', policy({ Sid: 'Team', Effect: 'Allow', Action: '*', Resource: '*', Condition }));
  const request = { action: 'lambda:RunMicrovm', resource: image, context: {} };
  const denied = explain(role, request);
  assert.equal(denied.outcome, 'implicit-deny');
  assert.deepEqual(denied.statements, [
    {
      policy: 'p',
      statement: 1,
      sid: 'Team',
      effect: 'Allow',
      mismatch: { on: 'condition', operator: 'StringEquals', key: 'aws:ResourceTag/team' },
    },
  ]);
  assert.match(denied.principalArn, /:assumed-role\/build\//);
  assert.equal(explain(role, { ...request, context: { 'aws:ResourceTag/team': 'a' } }).outcome, 'allowed');
  assert.throws(() => explain(ann, request), { code: 'NOT_FOUND' });
});
