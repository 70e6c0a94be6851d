import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect as tlsConnect } from 'node:tls';
import { DomainError, randomIds, silentLogger, systemClock, TestClock } from '../lib/index.ts';
import { openAuthority } from './authority.ts';
import { readCertificate } from './certificate-files.ts';
import { Certificates } from './certificates.ts';
import { createBench } from './test-bench.ts';

const SUFFIX = 'lambda-microvm.us-east-1.example.com';
const DAY_MS = 86_400_000;
const POLL_MS = 5000;

interface Files extends AsyncDisposable {
  readonly dir: string;
  readonly certFile: string;
  readonly keyFile: string;
  /** Writes a certificate for `names`, made by an authority of its own; answers the authority. */
  write(names: readonly string[], nowMs?: number): Promise<{ caPem: string; certPem: string; keyPem: string }>;
}

async function files(): Promise<Files> {
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-own-tls-'));
  const [certFile, keyFile] = [join(dir, 'cert.pem'), join(dir, 'key.pem')];
  let made = 0;
  return {
    dir,
    certFile,
    keyFile,
    async write(names, nowMs = systemClock.now()) {
      const clock = new TestClock({ startAtMs: nowMs });
      const tls = await openAuthority(join(dir, `ca${made++}`), { clock, ids: randomIds, names });
      await replace(certFile, tls.certPem);
      await replace(keyFile, tls.keyPem);
      return tls;
    },
    [Symbol.asyncDispose]: () => rm(dir, { recursive: true }),
  };
}

async function replace(file: string, content: string): Promise<void> {
  await writeFile(`${file}.new`, content);
  await rename(`${file}.new`, file);
}

test('a certificate that clients would not accept is refused with a sentence that says why', async () => {
  await using own = await files();
  const read = (name = `any.${SUFFIX}`) => readCertificate(own, name, systemClock.now());
  const refused = (words: RegExp, name?: string) =>
    assert.rejects(read(name), (error: unknown) => {
      assert.ok(error instanceof DomainError && error.code === 'INVALID');
      assert.match(error.message, words);
      return true;
    });
  await refused(/^The file of --endpoint-cert cannot be read: ENOENT/);
  const tls = await own.write([`*.${SUFFIX}`]);
  assert.equal((await read()).certPem, tls.certPem);

  await refused(
    /must be for \*\.lambda-microvm\.eu-west-1\.example\.com, but is for .*us-east-1/,
    'any.lambda-microvm.eu-west-1.example.com',
  );
  await writeFile(own.certFile, `${tls.caPem}${tls.certPem}`);
  await refused(/must begin with the endpoints' own certificate; the chain comes after it/);
  await writeFile(own.certFile, 'nonsense');
  await refused(/holds no certificate/);
  await writeFile(own.certFile, '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n');
  await refused(/Certificate 1 in .* is damaged/);
  await writeFile(own.certFile, tls.certPem);
  await writeFile(own.keyFile, 'nonsense');
  await refused(/holds no private key in PEM form/);
  await writeFile(own.keyFile, '-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAAA\n-----END ENCRYPTED PRIVATE KEY-----\n');
  await refused(/is encrypted\. Decrypt it/);

  const other = await openAuthority(join(own.dir, 'other'), { clock: systemClock, ids: randomIds });
  await writeFile(own.keyFile, other.keyPem);
  await refused(/The key in .* does not belong to the certificate in/);
  await own.write([`*.${SUFFIX}`], systemClock.now() - 500 * DAY_MS);
  await refused(/expired on \d{4}-.*Renew it/);
  await own.write([`*.${SUFFIX}`], systemClock.now() + 30 * DAY_MS);
  await refused(/valid only from \d{4}-/);
});

test('a changed certificate is used for new handshakes, a wrong one is not, and connections that stand go on', async () => {
  await using own = await files();
  const first = await own.write([`*.${SUFFIX}`]);
  const clock = new TestClock({ startAtMs: systemClock.now() });
  await using bench = await createBench(undefined, undefined, {
    clock,
    certificate: own,
    hostMode: { listen: { host: '127.0.0.1', port: 0 }, suffix: SUFFIX, publicPort: undefined },
    limits: { headersMs: 3_600_000, keepAliveMs: 3_600_000 },
  });
  const connect = async (ca: string) => {
    const socket = tlsConnect({ host: '127.0.0.1', port: bench.port, servername: `endpoint-1.${SUFFIX}`, ca });
    await once(socket, 'secureConnect');
    return socket;
  };
  const standing = await connect(first.caPem);

  await writeFile(own.certFile, 'nonsense');
  await clock.advance(POLL_MS);
  (await connect(first.caPem)).destroy();

  const second = await own.write([`*.${SUFFIX}`]);
  // The files are read off the loop.
  for (;;) {
    await clock.advance(POLL_MS);
    const socket = await connect(second.caPem).catch(() => undefined);
    socket?.destroy();
    if (socket !== undefined) break;
  }
  await assert.rejects(connect(first.caPem), /certificate|issuer/);
  standing.write(`GET / HTTP/1.1\r\nHost: endpoint-1.${SUFFIX}\r\nX-Aws-Proxy-Auth: ${bench.token}\r\n\r\n`);
  const [answer] = await once(standing, 'data');
  assert.match(String(answer), /^HTTP\/1\.1 200 /);
  standing.destroy();
});

test('session-ticket keys are new each day, and the local certificate is renewed while the server runs', async () => {
  await using own = await files();
  const clock = new TestClock();
  const tlsDir = join(own.dir, 'tls');
  const old = new TestClock({ startAtMs: clock.now() - 335 * DAY_MS });
  await openAuthority(tlsDir, { clock: old, ids: randomIds, names: [SUFFIX, `*.${SUFFIX}`] });
  const options = { tlsDir, clock, ids: randomIds, log: silentLogger, files: undefined };
  using certificates = await Certificates.open({ ...options, suffix: SUFFIX });
  const seen: string[] = [];
  certificates.onNew(({ certPem }) => seen.push(certPem));
  const before = certificates.current.certPem;
  for (let day = 1; day <= 3; day++) {
    await clock.advance(DAY_MS);
    // The files are read off the loop.
    while (seen.length < day) await new Promise((resolve) => setImmediate(resolve));
  }
  // 62 days were left; 60 are when it is renewed.
  assert.deepEqual(
    seen.map((certPem) => certPem === before),
    [true, true, false],
  );
});

test('a certificate made while the clock was ahead is replaced while the server runs', async () => {
  await using own = await files();
  const clock = new TestClock();
  const options = { tlsDir: join(own.dir, 'tls'), ids: randomIds, log: silentLogger, files: undefined };
  await openAuthority(options.tlsDir, { clock, ids: randomIds });
  clock.jump(365 * DAY_MS);
  using certificates = await Certificates.open({ ...options, clock, suffix: undefined });
  const replaced = Promise.withResolvers<string>();
  certificates.onNew(({ certPem }) => replaced.resolve(certPem));
  clock.jump(-365 * DAY_MS);
  await clock.advance(POLL_MS);
  const { validFromDate } = new X509Certificate(await replaced.promise);
  assert.ok(validFromDate.getTime() <= clock.now());
});
