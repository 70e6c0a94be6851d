import assert from 'node:assert/strict';
import { chmod, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { type DomainError, silentLogger, TestClock } from '../../lib/index.ts';
import { openStore } from '../../store/index.ts';
import type { CredentialTarget, RoleCredentials } from './role-credentials.ts';
import { openRoles, type RoleVendor } from './roles.ts';
import { refuseWith, serveTestSts, type TestSts } from './test-sts.ts';

const ARN = 'arn:aws:iam::000000000000:role/agent';
const ANN = 'arn:aws:iam::000000000000:user/ann';
const HOUR = 3_600_000;
const LEASE = { roleArn: ARN, principal: ANN, sessionName: 'microvm-1' };
const STATIC = { kind: 'static', accessKeyId: 'AKIASTATIC', secretAccessKey: 'secret' };

interface Bench extends AsyncDisposable {
  readonly dir: string;
  readonly clock: TestClock;
  readonly vendor: RoleVendor;
  readonly sts: TestSts;
  /** A source that assumes the role at the test's STS. */
  assumed(durationSeconds?: number): object;
  write(roles: object, more?: object): Promise<void>;
  /** Moves time in steps, a second each unless said, and lets files and sockets have theirs, until `holds`. */
  until(holds: () => boolean, stepMs?: number): Promise<void>;
  /** The same store and file with another server. */
  again(): Promise<RoleVendor>;
}

async function bench(roles: object = {}, more: object = {}): Promise<Bench> {
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-roles-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const clock = new TestClock();
  const sts = stack.use(await serveTestSts({ now: () => clock.now() }));
  const store = stack.use(await openStore(path.join(dir, 'store.sqlite')));
  const file = path.join(dir, 'roles.json');
  const write = async (next: object, rest: object = {}) => {
    await writeFile(`${file}.new`, JSON.stringify({ roles: next, ...rest }), { mode: 0o600 });
    await rename(`${file}.new`, file);
  };
  const assumed = (durationSeconds = 3600) => ({
    kind: 'assume-role',
    endpoint: sts.endpoint,
    region: 'us-east-1',
    durationSeconds,
    caller: STATIC,
  });
  await write(Object.keys(roles).length === 0 ? { [ARN]: { source: assumed() } } : roles, more);
  const open = () => openRoles({ file, environment: {}, store, clock, log: silentLogger });
  const vendor = stack.use(await open());
  const owned = stack.move();
  return {
    dir,
    clock,
    vendor,
    sts,
    assumed,
    write,
    until: async (holds, stepMs = 1000) => {
      for (let i = 0; i < 20_000; i++) {
        if (holds()) return;
        await clock.advance(i % 100 === 0 ? stepMs : 0);
      }
      assert.fail('it never came to that');
    },
    again: async () => owned.use(await open()),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** A guest that notes what it is given; `fail` makes the next change reject. */
function guest(): CredentialTarget & {
  readonly given: (string | null)[];
  last: RoleCredentials | null;
  fail: Error | undefined;
} {
  const target = {
    id: 'microvm-1',
    given: [] as (string | null)[],
    last: null as RoleCredentials | null,
    fail: undefined as Error | undefined,
    setCredentials: async (credentials: RoleCredentials | null) => {
      const { fail } = target;
      target.fail = undefined;
      if (fail !== undefined) throw fail;
      target.given.push(credentials?.accessKeyId ?? null);
      target.last = credentials;
    },
  };
  return target;
}

test('credentials are asked for once however many ask, and kept for their session', async () => {
  await using b = await bench();
  const ask = (sessionName: string) => b.vendor.credentialsFor(ARN, { sessionName });
  const all = await Promise.all([ask('one'), ask('one'), ask('one'), ask('two')]);
  assert.equal(b.sts.asked.length, 2);
  assert.deepEqual(await ask('one'), all[0]);
  assert.equal(b.sts.asked.length, 2);
  assert.deepEqual(b.sts.asked.map(({ parameters }) => parameters.RoleSessionName).sort(), ['one', 'two']);
});

test('credentials without an end are given one an hour ahead', async () => {
  await using b = await bench({ [ARN]: { source: STATIC } });
  const given = await b.vendor.credentialsFor(ARN, { sessionName: 'x' });
  assert.deepEqual(given, {
    accessKeyId: 'AKIASTATIC',
    secretAccessKey: 'secret',
    sessionToken: '',
    expiresAt: b.clock.now() + HOUR,
    renewAt: b.clock.now() + HOUR - 15 * 60_000,
  });
});

test('a guest gets new credentials well ahead of the end of the old ones', async () => {
  await using b = await bench();
  const target = guest();
  await using _keeping = await b.vendor.keep(target, LEASE, {});
  const startedAt = b.clock.now();
  assert.deepEqual(target.given, ['ASIASTS1']);
  await b.clock.advance(HOUR - 16 * 60_000);
  assert.deepEqual(target.given, ['ASIASTS1']);
  await b.until(() => target.given.length === 2, 10_000);
  assert.ok(startedAt + HOUR - b.clock.now() > 5 * 60_000, 'five minutes ahead at least');
  assert.equal(target.given[1], 'ASIASTS2');
});

test('a short life is renewed in its middle', async () => {
  await using b = await bench();
  await b.write({ [ARN]: { source: b.assumed(900) } });
  const target = guest();
  await using _keeping = await b.vendor.keep(target, LEASE, {});
  await b.until(() => target.last !== null && target.last.expiresAt <= b.clock.now() + 900_000);
  const { length } = target.given;
  const endsAt = target.last?.expiresAt ?? 0;
  await b.until(() => target.given.length > length, 10_000);
  assert.ok(endsAt - b.clock.now() > 300_000);
});

test('credentials of a static source get a new end before the old one comes', async () => {
  await using b = await bench({ [ARN]: { source: STATIC } });
  const target = guest();
  await using _keeping = await b.vendor.keep(target, LEASE, {});
  const first = target.last?.expiresAt ?? 0;
  await b.until(() => (target.last?.expiresAt ?? 0) > first, 60_000);
  assert.ok(b.clock.now() < first - 5 * 60_000);
});

test('a source that fails is asked again, and what the guest has stays until its end', async () => {
  await using b = await bench();
  const target = guest();
  await using _keeping = await b.vendor.keep(target, LEASE, {});
  const endsAt = target.last?.expiresAt ?? 0;
  using broken = b.sts.answer(refuseWith('InternalFailure', 500));
  const askedBefore = b.sts.asked.length;
  await b.until(() => b.clock.now() > endsAt - 10 * 60_000 && b.sts.asked.length > askedBefore + 2, 60_000);
  assert.deepEqual(target.given, ['ASIASTS1'], 'a failing source takes nothing away');
  await b.until(() => target.last === null, 10_000);
  assert.ok(b.clock.now() >= endsAt, 'what has ended is taken back');
  broken[Symbol.dispose]();
  await b.until(() => target.last !== null);
});

test('a source that says there is nothing any more takes the credentials back', async () => {
  await using b = await bench();
  const target = guest();
  await using _keeping = await b.vendor.keep(target, LEASE, {});
  using _refusing = b.sts.answer(refuseWith('AccessDenied', 403));
  await b.until(() => target.last === null, 60_000);
});

test('a revoked role is taken back at once, is not given until it is restored, and stays revoked over a restart', async () => {
  await using b = await bench();
  const target = guest();
  await using _keeping = await b.vendor.keep(target, LEASE, {});
  await b.vendor.revoke(ARN);
  await b.clock.advance(0);
  assert.equal(target.last, null);
  await assert.rejects(b.vendor.credentialsFor(ARN, { sessionName: 'x' }), /revoked/);
  assert.throws(() => b.vendor.demandPass(ARN, ANN), /revoked/);
  const second = await b.again();
  assert.throws(() => second.demandPass(ARN, ANN), /revoked/);
  assert.deepEqual(
    second.revoked().map(({ roleArn }) => roleArn),
    [ARN],
  );
  await b.vendor.restore(ARN);
  await b.until(() => target.last !== null);
  assert.deepEqual(target.given, ['ASIASTS1', null, 'ASIASTS2'], 'not those of before');
  await assert.rejects(b.vendor.restore(ARN), (error: DomainError) => error.code === 'NOT_FOUND');
});

test('revoking does not wait for a source that never answers', async () => {
  await using b = await bench();
  const target = guest();
  await using _keeping = await b.vendor.keep(target, LEASE, {});
  using _silent = b.sts.answer(() => {});
  const askedBefore = b.sts.asked.length;
  await b.until(() => b.sts.asked.length > askedBefore, 60_000);
  await b.vendor.revoke(ARN);
  await b.until(() => target.last === null);
});

test('a changed roles file reaches guests: other keys, another trust, no source, and back', async () => {
  await using b = await bench({ [ARN]: { source: STATIC } });
  const target = guest();
  await using _keeping = await b.vendor.keep(target, LEASE, {});
  await b.write({ [ARN]: { source: { ...STATIC, accessKeyId: 'AKIAROTATED' } } });
  await b.until(() => target.last?.accessKeyId === 'AKIAROTATED');
  await b.write({ [ARN]: { source: STATIC, trust: [{ principals: ['*:user/bob'] }] } });
  await b.until(() => target.last === null);
  assert.throws(() => b.vendor.demandPass(ARN, ANN), /its trust does not cover it/);
  await b.write({ [ARN]: { source: STATIC, trust: [{ principals: ['*:user/ann'] }] } });
  await b.until(() => target.last?.accessKeyId === 'AKIASTATIC');
  await b.write({ [ARN]: {} });
  await b.until(() => target.last === null);
  await b.write({ [ARN]: { source: STATIC } });
  await b.until(() => target.last !== null);
});

test('a roles file that cannot be used changes nothing', async () => {
  await using b = await bench({ [ARN]: { source: STATIC } });
  const target = guest();
  await using _keeping = await b.vendor.keep(target, LEASE, {});
  const file = path.join(b.dir, 'roles.json');
  await writeFile(file, '{"roles": {');
  await b.clock.advance(5000);
  await rm(file);
  await b.clock.advance(5000);
  await b.write({ [ARN]: { source: { ...STATIC, accessKeyId: 'AKIALATER' } } });
  await chmod(file, 0o644);
  await b.clock.advance(5000);
  assert.deepEqual(target.given, ['AKIASTATIC']);
  await chmod(file, 0o600);
  await b.until(() => target.last?.accessKeyId === 'AKIALATER');
});

test('a rotated credential file reaches guests, a removed one takes their credentials back', async () => {
  await using b = await bench({ [ARN]: { source: { kind: 'file', path: 'keys.json' } } });
  const keys = path.join(b.dir, 'keys.json');
  const write = (id: string) => writeFile(keys, JSON.stringify({ AccessKeyId: id, SecretAccessKey: 'secret' }));
  await write('AKIAFIRST');
  const target = guest();
  await using _keeping = await b.vendor.keep(target, LEASE, {});
  await write('AKIASECOND');
  await b.until(() => target.last?.accessKeyId === 'AKIASECOND');
  await rm(keys);
  await b.until(() => target.last === null);
  await write('AKIATHIRD');
  await b.until(() => target.last?.accessKeyId === 'AKIATHIRD');
});

test('a change that a guest did not confirm is made again', async () => {
  await using b = await bench({ [ARN]: { source: STATIC } });
  const target = guest();
  await using _keeping = await b.vendor.keep(target, LEASE, {});
  target.fail = new Error('no answer');
  await b.vendor.revoke(ARN);
  await b.until(() => target.last === null);
});

test('whoever has no patience is told that there are no credentials, and why is for the log', async () => {
  await using b = await bench();
  using _refusing = b.sts.answer(refuseWith('AccessDenied', 403));
  const target = guest();
  await assert.rejects(b.vendor.keep(target, LEASE, {}), (error: DomainError) => {
    assert.equal(error.code, 'INVALID');
    assert.equal(error.message, `The role ${ARN} cannot be assumed.`);
    return true;
  });
  assert.deepEqual(target.given, []);
});

test('who has patience gets credentials as soon as they can be had', async () => {
  await using b = await bench();
  const target = guest();
  using refusing = b.sts.answer(refuseWith('ServiceUnavailable', 503));
  await using _keeping = await b.vendor.keep(target, LEASE, { patient: true });
  refusing[Symbol.dispose]();
  await b.until(() => target.last !== null);
});

test('a guest that may have credentials of an earlier server loses them when the role gives none', async () => {
  await using b = await bench({ [ARN]: { source: STATIC } });
  await b.vendor.revoke(ARN);
  const target = guest();
  await using _keeping = await b.vendor.keep(target, LEASE, { patient: true, mayHold: true });
  assert.deepEqual(target.given, [null]);
});

test('a role without a source is accepted and gives nothing, unless sources are required', async () => {
  await using b = await bench({ [ARN]: {} });
  b.vendor.demandPass(ARN, ANN);
  b.vendor.demandPass('arn:aws:iam::000000000000:role/unheard-of', ANN);
  const target = guest();
  await using _keeping = await b.vendor.keep(target, LEASE, {});
  assert.deepEqual(target.given, []);
  await using strict = await bench({ [ARN]: {} }, { requireSource: true });
  assert.throws(() => strict.vendor.demandPass(ARN, ANN), /no source of credentials/);
});

test('nothing more is given once it is not kept any longer', async () => {
  await using b = await bench();
  const target = guest();
  const keeping = await b.vendor.keep(target, LEASE, {});
  await keeping[Symbol.asyncDispose]();
  await b.vendor.revoke(ARN);
  await b.clock.advance(2 * HOUR);
  assert.deepEqual(target.given, ['ASIASTS1']);
});

test('a roles file with keys that others may read is refused at start', async () => {
  await using b = await bench({ [ARN]: { source: STATIC } });
  await chmod(path.join(b.dir, 'roles.json'), 0o640);
  await assert.rejects(b.again(), /chmod 600/);
});
