import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Attempt, type JailFindings, PARTS, planJail } from './plan.ts';

const ROOT_PARTS = PARTS.filter((part) => part !== 'no-more-users');

function findings(attempt: Attempt, given: Partial<JailFindings> = {}): JailFindings {
  return { isRoot: true, isInstalled: true, hasSeccomp: true, attempt, ...given };
}

const everything: Attempt = async () => undefined;

test('a root server on an ordinary host gives every VMM a user and namespaces of its own, with nothing to say', async () => {
  const { plan, checks } = await planJail(findings(everything));
  assert.equal(plan.kind, 'uid');
  assert.deepEqual([...plan.parts], ROOT_PARTS);
  assert.deepEqual(
    checks.map(({ id, ok }) => [id, ok]),
    [
      ['users', 'yes'],
      ['namespaces', 'yes'],
      ['seccomp', 'yes'],
    ],
  );
});

test('an unprivileged server uses a user namespace that can make no others, and says whose user VMMs are', async () => {
  const { plan, checks } = await planJail(findings(everything, { isRoot: false }));
  assert.equal(plan.kind, 'namespace');
  assert.deepEqual([...plan.parts], [...PARTS]);
  const users = checks.find(({ id }) => id === 'users');
  assert.equal(users?.ok, 'degraded');
  assert.match(users.remedy, /root/);
  assert.equal(checks.find(({ id }) => id === 'namespaces')?.ok, 'yes');
});

test('only the namespace that the host refuses is left out, and it is named with the reason', async () => {
  const attempt: Attempt = async (_, parts) =>
    parts.has('net') ? 'loopback: Failed RTM_NEWADDR: Operation not permitted' : undefined;
  const { plan, checks } = await planJail(findings(attempt));
  assert.equal(plan.kind, 'uid');
  assert.deepEqual(
    [...plan.parts],
    ROOT_PARTS.filter((part) => part !== 'net'),
  );
  const check = checks.find(({ id }) => id === 'namespaces');
  assert.equal(check?.ok, 'degraded');
  assert.match(check.what, /lacks: network .*RTM_NEWADDR/);
});

test('root that may not become somebody else falls back to a user namespace', async () => {
  const attempt: Attempt = async (kind) => (kind === 'uid' ? 'setpriv: setresuid failed' : undefined);
  const { plan, checks } = await planJail(findings(attempt));
  assert.equal(plan.kind, 'namespace');
  assert.match(checks.find(({ id }) => id === 'users')?.what ?? '', /run as root, in a user namespace/);
});

test('a host that allows no namespaces at all still filters system calls, and says what is missing', async () => {
  const { plan, checks } = await planJail(findings(async () => 'No permissions to create a new namespace'));
  assert.deepEqual([plan.kind, plan.parts.size, plan.seccomp], ['none', 0, true]);
  const check = checks.find(({ id }) => id === 'namespaces');
  assert.equal(check?.ok, 'degraded');
  assert.match(check.what, /No permissions/);
  assert.notEqual(check.remedy, '');
});

test('without bubblewrap nothing is tried', async () => {
  const attempt: Attempt = async () => assert.fail('nothing can be tried');
  const { plan, checks } = await planJail(findings(attempt, { isInstalled: false }));
  assert.equal(plan.kind, 'none');
  assert.match(checks.find(({ id }) => id === 'namespaces')?.what ?? '', /bubblewrap is not installed/);
});

test('a kernel without seccomp is said', async () => {
  const { plan, checks } = await planJail(findings(everything, { hasSeccomp: false }));
  assert.equal(plan.seccomp, false);
  assert.equal(checks.find(({ id }) => id === 'seccomp')?.ok, 'degraded');
});
