import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import type { RequestOptions } from 'node:http';
import { connect as http2Connect } from 'node:http2';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { connect as tlsConnect } from 'node:tls';
import { promisify } from 'node:util';
import type { FakeApp } from '../engine/index.ts';
import { DomainError } from '../lib/index.ts';
import { type Bench, createBench } from './test-bench.ts';

const run = promisify(execFile);
const SUFFIX = 'lambda-microvm.us-east-1.localhost';
const NAME = `endpoint-1.${SUFFIX}`;
const OTHER = `endpoint-2.${SUFFIX}`;
const hostMode = { listen: { host: '127.0.0.1', port: 0 }, suffix: SUFFIX, publicPort: undefined };

/** Two microVMs behind one listener; the app tells which of them it is and what host it was asked for. */
async function createHostBench(): Promise<Bench & { otherToken: string }> {
  const app: FakeApp =
    ({ id }) =>
    (request, response) =>
      response.end(`${id} ${request.headers.host}`);
  const bench = await createBench(app, undefined, { hostMode });
  const first = await bench.traffic.onWake(bench.id);
  const second = await bench.engine.launch({ id: 'microvm-2', snapshotDir: '/' }, {});
  bench.traffic.onWake = async (id) => {
    if (id === 'microvm-gone') throw new DomainError('CONFLICT', 'it is terminated');
    return id === 'microvm-2' ? second : first;
  };
  await bench.ingress.open({ microvmId: 'microvm-2', endpointId: 'endpoint-2', port: null, memoryMiB: 512 });
  return Object.assign(bench, { otherToken: bench.traffic.issue({ microvmId: 'microvm-2' }) });
}

const at = (serverName: string, host = serverName): RequestOptions & { servername: string } => ({
  host: '127.0.0.1',
  servername: serverName,
  headers: { host },
});

test('each microVM answers at its own name behind one listener', async () => {
  await using bench = await createHostBench();
  assert.equal(bench.address, `${NAME}:${bench.port}`);
  assert.equal((await bench.request(at(NAME))).body, `microvm-1 ${NAME}`);
  const other = { ...at(OTHER), headers: { host: OTHER, 'x-aws-proxy-auth': bench.otherToken } };
  assert.equal((await bench.request(other)).body, `microvm-2 ${OTHER}`);
});

test('a key exchange that outlasts quantum computers is for whoever can be recorded: not on loopback', async () => {
  await using onNetwork = await createHostBench();
  await using onLoopback = await createBench();
  const group = async (bench: Bench, servername: string) => {
    const socket = tlsConnect({ host: '127.0.0.1', port: bench.port, servername, ca: bench.ingress.caPem });
    await once(socket, 'secureConnect');
    const { name } = socket.getEphemeralKeyInfo() as { name?: string };
    socket.destroy();
    return name;
  };
  assert.equal(await group(onLoopback, 'localhost'), 'X25519');
  assert.notEqual(await group(onNetwork, NAME), 'X25519');
});

test('curl reaches a microVM by its name', { skip: !existsSync('/usr/bin/curl') && 'there is no curl' }, async () => {
  await using bench = await createHostBench();
  const { stdout } = await run('curl', [
    ...['--silent', '--show-error', '--max-time', '20', '--http1.1', '--noproxy', '*'],
    ...['--cacert', bench.ingress.caFile, '--resolve', `${NAME}:${bench.port}:127.0.0.1`],
    ...['--header', `X-aws-proxy-auth: ${bench.token}`, `https://${NAME}:${bench.port}/`],
  ]);
  assert.equal(stdout, `microvm-1 ${NAME}:${bench.port}`);
});

test('server name and host must be the same name of a microVM; a proxy may name what all end in', async () => {
  await using bench = await createHostBench();
  const unknown = `endpoint-9.${SUFFIX}`;
  const cases: [serverName: string, host: string, status: number, body: string][] = [
    [NAME, `${NAME}:443`, 200, `microvm-1 ${NAME}:443`],
    [NAME, NAME.toUpperCase(), 200, `microvm-1 ${NAME.toUpperCase()}`],
    [NAME.toUpperCase(), NAME, 200, `microvm-1 ${NAME}`],
    [SUFFIX, NAME, 200, `microvm-1 ${NAME}`],
    [NAME, OTHER, 421, 'Host does not match the TLS server name'],
    [NAME, 'localhost', 421, 'Host does not match the TLS server name'],
    [OTHER, NAME, 421, 'Host does not match the TLS server name'],
    [OTHER, OTHER, 403, 'Token authentication failed'],
    [SUFFIX, OTHER, 403, 'Token authentication failed'],
    [unknown, unknown, 403, 'Token authentication failed'],
    [SUFFIX, unknown, 403, 'Token authentication failed'],
    [SUFFIX, SUFFIX, 403, 'Token authentication failed'],
    ['', NAME, 403, 'Token authentication failed'],
  ];
  for (const [serverName, host, status, body] of cases) {
    const answer = await bench.request({ ...at(serverName, host), ...{ rejectUnauthorized: false } });
    assert.deepEqual([answer.status, answer.body], [status, body], `${serverName} ${host}`);
    if (status !== 200) assert.equal(answer.headers['cache-control'], 'private, no-store');
  }
  const anonymous = { ...at(unknown), headers: { host: unknown, 'x-aws-proxy-auth': '' } };
  assert.equal((await bench.request(anonymous)).body, 'Request missing authentication');
});

test('each request of a kept connection is asked for its host anew', async () => {
  await using bench = await createHostBench();
  const options = { host: '127.0.0.1', port: bench.port, ca: bench.ingress.caPem };
  const answers = async (serverName: string, asked: [host: string, token: string][]) => {
    const socket = tlsConnect({ ...options, servername: serverName });
    const last = asked.length - 1;
    for (const [i, [host, token]] of asked.entries()) {
      const end = i === last ? 'Connection: close\r\n' : '';
      socket.write(`GET / HTTP/1.1\r\nHost: ${host}\r\nX-Aws-Proxy-Auth: ${token}\r\n${end}\r\n`);
    }
    let text = '';
    for await (const chunk of socket) text += String(chunk);
    return [...text.matchAll(/HTTP\/1\.1 (\d+)|microvm-\d/g)].map(([all, status]) => status ?? all);
  };
  assert.deepEqual(
    await answers(NAME, [
      [NAME, bench.token],
      [OTHER, bench.otherToken],
      [NAME, bench.token],
    ]),
    ['200', 'microvm-1', '421', '200', 'microvm-1'],
  );
  assert.deepEqual(
    await answers(SUFFIX, [
      [NAME, bench.token],
      [OTHER, bench.otherToken],
      [OTHER, bench.token],
    ]),
    ['200', 'microvm-1', '200', 'microvm-2', '403'],
  );
});

test('each stream of an HTTP/2 connection is asked for its authority anew', async () => {
  await using bench = await createHostBench();
  const answers = async (serverName: string) => {
    const options = { host: '127.0.0.1', port: bench.port, ca: bench.ingress.caPem, ALPNProtocols: ['h2'] };
    const session = http2Connect(`https://${NAME}`, {
      createConnection: () => tlsConnect({ ...options, servername: serverName }),
    });
    const ask = async (authority: string, token: string) => {
      const stream = session.request({ ':authority': authority, 'x-aws-proxy-auth': token });
      const [headers] = await once(stream, 'response');
      return `${headers[':status']} ${await text(stream)}`;
    };
    const seen = await Promise.all([
      ask(NAME, bench.token),
      ask(OTHER, bench.otherToken),
      ask(`endpoint-9.${SUFFIX}`, bench.token),
    ]);
    session.destroy();
    return seen;
  };
  const misdirected = '421 Host does not match the TLS server name';
  assert.deepEqual(await answers(NAME), [`200 microvm-1 ${NAME}`, misdirected, misdirected]);
  assert.deepEqual(await answers(SUFFIX), [
    `200 microvm-1 ${NAME}`,
    `200 microvm-2 ${OTHER}`,
    '403 Token authentication failed',
  ]);
});

test('the name of a microVM that ended is a 502 for who holds its token, for good, and a 403 for others', async () => {
  await using bench = await createHostBench();
  const { traffic, ingress } = bench;
  const name = `endpoint-gone.${SUFFIX}`;
  const token = traffic.issue({ microvmId: 'microvm-gone' });
  const ask = async (auth: string) => {
    const { status, body } = await bench.request({ ...at(name), headers: { host: name, 'x-aws-proxy-auth': auth } });
    return [status, body];
  };
  await ingress.open({ microvmId: 'microvm-gone', endpointId: 'endpoint-gone', port: null, memoryMiB: 512 });
  assert.deepEqual(await ask(token), [502, '']);
  await ingress.close('microvm-gone');
  traffic.endpointIds.set('microvm-gone', 'endpoint-gone');
  assert.deepEqual(await ask(token), [502, '']);
  assert.deepEqual(await ask(bench.token), [403, 'Token authentication failed']);
  assert.deepEqual(await ask(''), [403, 'Request missing authentication']);
  assert.deepEqual(await ask(traffic.issue({ microvmId: 'microvm-gone' }, true)), [403, 'Token authentication failed']);
  traffic.endpointIds.set('microvm-gone', 'another');
  assert.deepEqual(await ask(token), [403, 'Token authentication failed']);
});

test('a session ticket given for one name opens no other microVM', async () => {
  await using bench = await createHostBench();
  const options = { host: '127.0.0.1', port: bench.port, ca: bench.ingress.caPem, maxVersion: 'TLSv1.2' } as const;
  for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
    const first = tlsConnect({ ...options, maxVersion, servername: NAME });
    const [session] = await once(first, 'session');
    first.destroy();
    const second = tlsConnect({ ...options, maxVersion, servername: OTHER, session });
    second.end(`GET / HTTP/1.1\r\nHost: ${OTHER}\r\nX-Aws-Proxy-Auth: ${bench.token}\r\nConnection: close\r\n\r\n`);
    let text = '';
    for await (const chunk of second) text += String(chunk);
    assert.match(text, /^HTTP\/1\.1 (403|421) /, maxVersion);
  }
});

test('old versions of TLS and ciphers without forward secrecy or authentication are refused', async () => {
  await using bench = await createHostBench();
  const options = { host: '127.0.0.1', port: bench.port, ca: bench.ingress.caPem, servername: NAME };
  const refused = [
    { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' },
    { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-SHA' },
    { maxVersion: 'TLSv1.2', ciphers: 'AES128-GCM-SHA256' },
  ] as const;
  for (const offer of refused) {
    await assert.rejects(once(tlsConnect({ ...options, ...offer }), 'secureConnect'), /alert|SSL|version/i);
  }
  const taken = tlsConnect({ ...options, maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-GCM-SHA256' });
  await once(taken, 'secureConnect');
  taken.destroy();
});

test('a port in use or an address the host does not have is refused with the flag that chooses another', async () => {
  await using bench = await createHostBench();
  const listening = (host: string, port: number) =>
    createBench(undefined, undefined, { hostMode: { ...hostMode, listen: { host, port } } });
  await assert.rejects(listening('127.0.0.1', bench.port), /Port \d+ of the endpoint is in use\. .*--endpoint-listen/);
  await assert.rejects(listening('192.0.2.77', 0), /no address 192\.0\.2\.77 for the endpoint\. .*--endpoint-listen/);
});

test('addresses leave out the port of HTTPS, and name the one that clients use', async () => {
  const addresses: string[] = [];
  for (const publicPort of [443, 9443]) {
    await using bench = await createBench(undefined, undefined, { hostMode: { ...hostMode, publicPort } });
    addresses.push(bench.address);
  }
  assert.deepEqual(addresses, [NAME, `${NAME}:9443`]);
});
