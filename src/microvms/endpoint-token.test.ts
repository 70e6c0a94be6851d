import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CompactEncrypt } from 'jose';
import { type Bench, bench, IDLE } from './test-bench.ts';

test('a token names its microVM and ports, and expires', async () => {
  await using b = await bench();
  const id = await b.run();
  const token = await b.microvms.createAuthToken({
    microvmIdentifier: id,
    expirationInMinutes: 5,
    allowedPorts: [{ port: 8080 }, { range: { startPort: 9000, endPort: 9010 } }],
  });
  const claims = {
    microvmId: id,
    kind: 'app',
    ports: [
      [8080, 8080],
      [9000, 9010],
    ],
    expiresAt: Math.floor(b.clock.now() / 1000) * 1000 + 300_000,
  };
  const [header = '', second] = token.split('.');
  assert.match(
    Buffer.from(header, 'base64url').toString(),
    /^\{"kid":"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}","alg":"dir","enc":"A256GCM"\}$/,
  );
  assert.equal(second, '');
  assert.deepEqual(await b.microvms.verifyToken(token), { kind: 'valid', claims });
  assert.deepEqual(await b.microvms.verifyToken(token), { kind: 'valid', claims });
  assert.deepEqual(await b.microvms.verifyToken('x.y.z'), { kind: 'unreadable' });
  assert.deepEqual(await b.microvms.verifyToken(`${token.slice(0, -2)}AA`), { kind: 'unreadable' });
  await b.clock.advance(300_000);
  assert.deepEqual(await b.microvms.verifyToken(token), { kind: 'expired', claims });
  await using after = await b.restart();
  assert.equal((await after.microvms.verifyToken(token)).kind, 'expired');
});

test('tokens are refused beyond 60 minutes, for ended microVMs, and for a shell without its connector', async () => {
  await using b = await bench();
  const id = await b.run();
  const ask = (expirationInMinutes: number) =>
    b.microvms.createAuthToken({ microvmIdentifier: id, expirationInMinutes, allowedPorts: [{ allPorts: {} }] });
  await assert.rejects(ask(61), { code: 'INVALID', message: 'ExpirationMinutes 61 exceeded max allowed of 60.' });
  await assert.rejects(b.microvms.createShellAuthToken({ microvmIdentifier: id, expirationInMinutes: 5 }), {
    code: 'INVALID',
    message: 'Shell access requires SHELL_INGRESS network connector to be configured on the MicroVM.',
  });
  await b.microvms.terminate(id);
  await assert.rejects(ask(5), { code: 'INVALID' });
  await assert.rejects(
    b.microvms.createAuthToken({ microvmIdentifier: 'microvm-x', expirationInMinutes: 5, allowedPorts: [] }),
    { code: 'NOT_FOUND', message: 'MicroVM not found: microvm-x' },
  );
});

const kidOf = (token: string) =>
  (JSON.parse(Buffer.from(token.split('.')[0] ?? '', 'base64url').toString()) as { kid: string }).kid;

async function tokenOf(b: Bench, microvmIdentifier: string, minutes = 60): Promise<string> {
  return b.microvms.createAuthToken({
    microvmIdentifier,
    expirationInMinutes: minutes,
    allowedPorts: [{ allPorts: {} }],
  });
}

test('a rotation changes the key of new tokens and cuts none, over restarts', async () => {
  await using b = await bench();
  const id = await b.run();
  const old = await tokenOf(b, id);
  const kid = await b.microvms.rotateTokenKey();
  const fresh = await tokenOf(b, id);
  assert.equal(kidOf(fresh), kid);
  assert.notEqual(kidOf(old), kid);
  for (const token of [old, fresh]) assert.equal((await b.microvms.verifyToken(token)).kind, 'valid');
  await using after = await b.restart();
  for (const token of [old, fresh]) assert.equal((await after.microvms.verifyToken(token)).kind, 'valid');
  assert.equal(kidOf(await tokenOf(after, await after.run())), kid, 'a restart is no rotation');
});

test('a retired key is deleted once the last token made with it has expired', async () => {
  await using b = await bench();
  const id = await b.run();
  const old = await tokenOf(b, id);
  const kid = kidOf(old);
  await b.microvms.rotateTokenKey();
  const keys = () => b.store.records('token_keys').inStates(['ISSUING', 'RETIRED'], { limit: 10 });
  await b.clock.advance(59 * 60_000);
  assert.equal((await b.microvms.verifyToken(old)).kind, 'valid');
  assert.ok((await keys()).some((row) => row.id === kid));
  await b.clock.advance(2 * 3_600_000);
  assert.notEqual((await b.microvms.verifyToken(old)).kind, 'valid');
  assert.deepEqual(
    (await keys()).map((row) => row.state),
    ['ISSUING'],
  );
});

test('keys are rotated every week by themselves, and after a longer stop at the next start', async () => {
  await using b = await bench();
  const id = await b.run();
  const first = kidOf(await tokenOf(b, id));
  b.clock.sleepHost(6 * 24 * 3_600_000);
  await b.clock.advance(3_600_000);
  assert.equal(kidOf(await tokenOf(b, await b.run())), first);
  b.clock.sleepHost(24 * 3_600_000);
  await b.clock.advance(3_600_000);
  const second = kidOf(await tokenOf(b, await b.run()));
  assert.notEqual(second, first);
  b.clock.sleepHost(8 * 24 * 3_600_000);
  await using after = await b.restart();
  assert.notEqual(kidOf(await tokenOf(after, await after.run())), second);
});

test('rotations asked for at once all happen, one after the other', async () => {
  await using b = await bench();
  const kids = await Promise.all([1, 2, 3].map(() => b.microvms.rotateTokenKey()));
  assert.equal(new Set(kids).size, 3);
  assert.equal(kidOf(await tokenOf(b, await b.run())), kids[2]);
});

test('what was not made by this server, to the byte, is unreadable', async () => {
  await using b = await bench();
  await using foreign = await bench();
  const token = await tokenOf(b, await b.run());
  const parts = token.split('.');
  const kid = kidOf(token);
  const header = (members: object) => Buffer.from(JSON.stringify(members)).toString('base64url');
  const withHeader = (members: object) => [header(members), ...parts.slice(1)].join('.');
  const flipped = (part: number) =>
    parts.map((text, i) => (i === part ? `${text.startsWith('A') ? 'B' : 'A'}${text.slice(1)}` : text)).join('.');
  const otherKey = await crypto.subtle.generateKey({ name: 'AES-GCM', length: 256 }, true, ['encrypt', 'decrypt']);
  const payload = new TextEncoder().encode(JSON.stringify({ microvmId: 'x', kind: 'app', ports: 'all', exp: 9e9 }));
  const sealed = (members: { alg: string; enc: string }) =>
    new CompactEncrypt(payload).setProtectedHeader({ kid, ...members }).encrypt(otherKey);
  const forged: [what: string, token: string][] = [
    ['another server', await tokenOf(foreign, await foreign.run())],
    ['another key under our kid', await sealed({ alg: 'dir', enc: 'A256GCM' })],
    ['an unknown kid', withHeader({ kid: '7f1e9d2c-0000-4000-8000-000000000000', alg: 'dir', enc: 'A256GCM' })],
    ['no kid', withHeader({ alg: 'dir', enc: 'A256GCM' })],
    ['a prototype as kid', withHeader({ kid: '__proto__', alg: 'dir', enc: 'A256GCM' })],
    ['members in another order', withHeader({ alg: 'dir', enc: 'A256GCM', kid })],
    ['alg none', withHeader({ kid, alg: 'none', enc: 'A256GCM' })],
    ['another enc', withHeader({ kid, alg: 'dir', enc: 'A128CBC-HS256' })],
    ['another alg', withHeader({ kid, alg: 'PBES2-HS256+A128KW', enc: 'A256GCM', p2c: 1e9, p2s: 'AAAA' })],
    ['a zip member', withHeader({ kid, alg: 'dir', enc: 'A256GCM', zip: 'DEF' })],
    ['a crit member', withHeader({ kid, alg: 'dir', enc: 'A256GCM', crit: ['exp'], exp: 1 })],
    ['the header padded', [`${parts[0]}=`, ...parts.slice(1)].join('.')],
    ['an encrypted key', [parts[0], 'AAAA', ...parts.slice(2)].join('.')],
    ['another initialisation vector', flipped(2)],
    ['another text', flipped(3)],
    ['another tag', flipped(4)],
    ['a short tag', token.slice(0, -6)],
    ['no tag', parts.slice(0, 4).join('.')],
    ['a sixth part', `${token}.AAAA`],
    ['the first half', token.slice(0, token.length / 2)],
    ['a blank behind', `${token} `],
    ['other spare bits of the last character', `${token.slice(0, -1)}${token.endsWith('A') ? 'B' : 'R'}`],
    ['nothing', ''],
    ['dots', '....'],
  ];
  for (const [what, text] of forged) {
    assert.deepEqual(await b.microvms.verifyToken(text), { kind: 'unreadable' }, what);
  }
  assert.equal((await b.microvms.verifyToken(token)).kind, 'valid');
});

test('every token the service would make fits a header, and one is made for a suspended microVM too', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  const before = await tokenOf(b, id);
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  assert.equal((await b.microvms.verifyToken(before)).kind, 'valid');
  const allowedPorts = Array.from({ length: 100 }, (_, i) => ({ range: { startPort: 10_000 + i, endPort: 65_535 } }));
  const token = await b.microvms.createAuthToken({ microvmIdentifier: id, expirationInMinutes: 1, allowedPorts });
  assert.equal((await b.microvms.verifyToken(token)).kind, 'valid');
  assert.ok(token.length < 8192, `${token.length} characters`);
});
