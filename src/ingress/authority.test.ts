import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { randomIds, TestClock } from '../lib/index.ts';
import { openAuthority } from './authority.ts';

const DAY_MS = 86_400_000;

async function folder(): Promise<AsyncDisposable & { dir: string }> {
  const root = await mkdtemp(join(tmpdir(), 'rekindle-tls-'));
  return { dir: join(root, 'tls'), [Symbol.asyncDispose]: () => rm(root, { recursive: true }) };
}

test('the certificate is for the loopback names, signed by the authority, and the keys are private', async () => {
  await using temporary = await folder();
  const made = await openAuthority(temporary.dir, { clock: new TestClock(), ids: randomIds });
  const [ca, server] = [new X509Certificate(made.caPem), new X509Certificate(made.certPem)];
  assert.equal(ca.ca, true);
  assert.equal(server.ca, false);
  assert.ok(server.verify(ca.publicKey));
  assert.equal(server.checkHost('localhost'), 'localhost');
  assert.equal(server.checkIP('127.0.0.1'), '127.0.0.1');
  assert.equal(server.checkIP('::1'), '::1');
  assert.equal(server.publicKey.asymmetricKeyDetails?.namedCurve, 'prime256v1');
  assert.deepEqual((await readdir(temporary.dir)).sort(), ['ca.key', 'ca.pem', 'server.key', 'server.pem']);
  for (const key of ['ca.key', 'server.key']) assert.equal((await stat(join(temporary.dir, key))).mode & 0o777, 0o600);
  assert.equal(await readFile(made.caFile, 'utf8'), made.caPem);
});

test('a second start finds the same certificates, and the server certificate is renewed before it expires', async () => {
  await using temporary = await folder();
  const clock = new TestClock();
  const first = await openAuthority(temporary.dir, { clock, ids: randomIds });
  assert.deepEqual(await openAuthority(temporary.dir, { clock, ids: randomIds }), first);

  await clock.advance(350 * DAY_MS);
  const renewed = await openAuthority(temporary.dir, { clock, ids: randomIds });
  assert.equal(renewed.caPem, first.caPem);
  assert.notEqual(renewed.certPem, first.certPem);
  assert.ok(new X509Certificate(renewed.certPem).verify(new X509Certificate(first.caPem).publicKey));

  await clock.advance(10 * 365 * DAY_MS);
  assert.notEqual((await openAuthority(temporary.dir, { clock, ids: randomIds })).caPem, first.caPem);
});

test('a damaged or foreign server certificate is replaced without touching the authority', async () => {
  await using temporary = await folder();
  const clock = new TestClock();
  const first = await openAuthority(temporary.dir, { clock, ids: randomIds });
  await writeFile(join(temporary.dir, 'server.pem'), 'nonsense');
  const mended = await openAuthority(temporary.dir, { clock, ids: randomIds });
  assert.equal(mended.caPem, first.caPem);
  assert.notEqual(mended.keyPem, first.keyPem);
});

test('a certificate that lacks a name is made anew with it, under the same authority, and kept when it has more than asked', async () => {
  await using temporary = await folder();
  const clock = new TestClock();
  const suffix = 'lambda-microvm.us-east-1.localhost';
  const first = await openAuthority(temporary.dir, { clock, ids: randomIds });
  const named = await openAuthority(temporary.dir, { clock, ids: randomIds, names: [suffix, `*.${suffix}`] });
  assert.equal(named.caPem, first.caPem);
  const certificate = new X509Certificate(named.certPem);
  for (const name of ['localhost', suffix, `5c1a.${suffix}`]) assert.ok(certificate.checkHost(name), name);
  assert.equal(certificate.checkHost(`a.b.${suffix}`), undefined);
  assert.deepEqual(await openAuthority(temporary.dir, { clock, ids: randomIds }), named);
});

test('a certificate made while the clock was ahead is made anew, under the same authority', async () => {
  await using temporary = await folder();
  const clock = new TestClock();
  const first = await openAuthority(temporary.dir, { clock, ids: randomIds });
  clock.jump(365 * DAY_MS);
  await openAuthority(temporary.dir, { clock, ids: randomIds });
  clock.jump(-365 * DAY_MS);
  const made = await openAuthority(temporary.dir, { clock, ids: randomIds });
  assert.equal(made.caPem, first.caPem);
  assert.ok(new X509Certificate(made.certPem).validFromDate.getTime() <= clock.now());
});
