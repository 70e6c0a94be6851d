import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type ClientHttp2Session, connect, type IncomingHttpHeaders, type OutgoingHttpHeaders } from 'node:http2';
import { request as httpsRequest } from 'node:https';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { connect as tlsConnect } from 'node:tls';
import type { FakeApp } from './engine/index.ts';
import { MachineError } from './lib/index.ts';
import { type Answer, createEndpoints, type Endpoint, type Endpoints } from './test-endpoints.ts';

const resumes = (b: Endpoints, { id }: Endpoint) => b.engine.calls.filter((call) => call === `resume ${id}`).length;

/** Tells who got what, once for every request that came. */
function recorder(): { app: FakeApp; seen: string[] } {
  const seen: string[] = [];
  const app: FakeApp = (guest) => (request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (chunk: string) => {
      body += chunk;
    });
    request.once('end', () => {
      seen.push(`${guest.id} ${request.method} ${request.url} ${body}`);
      response.end(`${guest.id} ${body}`);
    });
  };
  return { app, seen };
}

async function overHttp2(session: ClientHttp2Session, headers: OutgoingHttpHeaders, body: string): Promise<Answer> {
  const stream = session.request(headers);
  stream.end(body);
  const [answered] = (await once(stream, 'response')) as [IncomingHttpHeaders];
  return { status: Number(answered[':status']), body: await text(stream) };
}

test('a thousand requests held during one resume are all answered, each once, after one resume', async () => {
  const { app, seen } = recorder();
  await using b = await createEndpoints({ engine: { app } });
  const vm = await b.run();
  await b.suspend(vm.id);
  const gate = b.engine.hold('resume');
  const bodies = Array.from({ length: 1000 }, (_, i) => `body-${i}`);
  const sessions = Array.from({ length: 9 }, () => connect(`https://localhost:${vm.port}`, { ca: b.ingress.caPem }));
  const answers = bodies.map((body, i) => {
    const session = sessions[i % 10];
    if (session === undefined) return b.request(vm, { method: 'POST', path: `/${i}` }, body);
    return overHttp2(session, { ':method': 'POST', ':path': `/${i}`, 'x-aws-proxy-auth': vm.token }, body);
  });
  await b.untilHeld(1000);
  assert.deepEqual(seen, []);
  gate[Symbol.dispose]();
  for (const [i, answer] of (await Promise.all(answers)).entries()) {
    assert.deepEqual(answer, { status: 200, body: `${vm.id} body-${i}` });
  }
  for (const session of sessions) session.close();
  assert.equal(resumes(b, vm), 1);
  assert.equal(new Set(seen).size, 1000);
  assert.equal(seen.length, 1000);
});

test('a WebSocket upgrade is held during the resume too', async () => {
  const app: FakeApp = () => (_request, response) => {
    response.socket?.write(
      'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n',
    );
  };
  await using b = await createEndpoints({ engine: { app } });
  const vm = await b.run();
  await b.suspend(vm.id);
  const gate = b.engine.hold('resume');
  const sent = httpsRequest({
    host: 'localhost',
    port: vm.port,
    ca: b.ingress.caPem,
    headers: { 'x-aws-proxy-auth': vm.token, connection: 'upgrade', upgrade: 'websocket', 'sec-websocket-key': 'x' },
  });
  sent.end();
  while (resumes(b, vm) === 0) await new Promise(setImmediate);
  gate[Symbol.dispose]();
  const [response, socket] = await once(sent, 'upgrade');
  assert.equal(response.statusCode, 101);
  socket.destroy();
});

test('an app that listens a moment after the wake is waited for, whatever the method', async () => {
  const { app, seen } = recorder();
  await using b = await createEndpoints({ engine: { app } });
  const vm = await b.run();
  await b.suspend(vm.id);
  for (let i = 0; i < 4; i++) b.engine.failNext('connect', new MachineError('failed', 'nothing listens there'));
  assert.deepEqual(await b.request(vm, { method: 'POST' }, 'order'), { status: 200, body: `${vm.id} order` });
  assert.equal(seen.length, 1);
});

test('a failed resume is a 502 for all who waited, and the next request tries again', async () => {
  await using b = await createEndpoints();
  const vm = await b.run();
  await b.suspend(vm.id);
  const gate = b.engine.hold('resume');
  b.engine.failNext('resume', new MachineError('failed', 'the disk is full'));
  const waiting = [1, 2, 3].map(() => b.request(vm));
  await b.untilHeld(3);
  gate[Symbol.dispose]();
  for (const answer of await Promise.all(waiting)) assert.deepEqual(answer, { status: 502, body: '' });
  assert.equal((await b.request(vm)).status, 200);
});

test('without auto-resume traffic gets 502 and wakes nothing; after a resume by API the same token opens again', async () => {
  await using b = await createEndpoints();
  const policy = { maxIdleDurationSeconds: 3600, suspendedDurationSeconds: 3600, autoResumeEnabled: false };
  const vm = await b.run(policy);
  await b.suspend(vm.id);
  assert.deepEqual(await b.request(vm), { status: 502, body: '' });
  assert.equal(resumes(b, vm), 0);
  await b.microvms.resume(vm.id);
  await b.until(vm.id, 'RUNNING');
  assert.equal((await b.request(vm)).status, 200);
});

test('a terminated microVM answers 502 to its token and 403 to a stranger', async () => {
  await using b = await createEndpoints();
  const vm = await b.run();
  const other = await b.run();
  await b.microvms.terminate(vm.id);
  await b.until(vm.id, 'TERMINATED');
  assert.deepEqual(await b.request(vm), { status: 502, body: '' });
  assert.deepEqual(await b.request({ ...vm, token: other.token }), {
    status: 403,
    body: 'Token authentication failed',
  });
  const malformed = await b.request({ ...vm, token: 'x' });
  assert.deepEqual(malformed, { status: 403, body: 'Request missing authentication' });
});

test('who has no token wakes nothing: neither a connection, nor a TLS handshake, nor a request', async () => {
  await using b = await createEndpoints();
  const vm = await b.run();
  const other = await b.run();
  await b.suspend(vm.id);
  const silent = tlsConnect({ host: 'localhost', port: vm.port, ca: b.ingress.caPem, ALPNProtocols: ['http/1.1'] });
  await once(silent, 'secureConnect');
  for (const token of ['', 'nonsense', other.token]) {
    assert.equal((await b.request({ ...vm, token })).status, 403);
  }
  silent.destroy();
  assert.equal(resumes(b, vm), 0);
});

test('a suspend by API waits for the answer under way', async () => {
  const release = Promise.withResolvers<void>();
  const arrived = Promise.withResolvers<void>();
  const app: FakeApp = () => async (_request, response) => {
    arrived.resolve();
    await release.promise;
    response.end('whole');
  };
  await using b = await createEndpoints({ engine: { app } });
  const vm = await b.run();
  const answer = b.request(vm);
  await arrived.promise;
  await b.microvms.suspend(vm.id);
  assert.equal((await b.microvms.get(vm.id)).state, 'SUSPENDING');
  release.resolve();
  assert.deepEqual(await answer, { status: 200, body: 'whole' });
  await b.until(vm.id, 'SUSPENDED');
});
