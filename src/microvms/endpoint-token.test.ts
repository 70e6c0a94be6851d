import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bench } from './test-bench.ts';

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
