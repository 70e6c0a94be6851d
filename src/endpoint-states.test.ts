/** What an endpoint answers in each state of its microVM, and to requests that are under way when the state changes. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:http2';
import { request as httpsRequest } from 'node:https';
import { test } from 'node:test';
import type { FakeApp } from './engine/index.ts';
import { DomainError, sleep } from './lib/index.ts';
import { createEndpoints, type Endpoint, type Endpoints } from './test-endpoints.ts';

const NO_RESUME = { maxIdleDurationSeconds: 3600, suspendedDurationSeconds: 3600, autoResumeEnabled: false };
const ENDED = /has been terminated and its state cannot be changed\.$/;

function tokenOf(b: Endpoints, { id }: Endpoint): Promise<string> {
  const asked = { microvmIdentifier: id, expirationInMinutes: 5, allowedPorts: [{ allPorts: {} }] };
  return b.microvms.createAuthToken(asked);
}

/** Answers what is asked for under other paths than `/` when the test says so. */
function slowApp(): { app: FakeApp; asked: (count: number) => Promise<void>; answer: () => void } {
  const told = Promise.withResolvers<void>();
  let came = 0;
  const app: FakeApp = () => (request, response) => {
    if (request.url === '/begun') response.write('begun');
    if (request.url === '/') return void response.end('quick');
    came += 1;
    void told.promise.then(() => response.end('slow'));
  };
  const asked = async (count: number) => {
    while (came < count) await sleep(2, { signal: AbortSignal.timeout(20_000) });
  };
  return { app, asked, answer: told.resolve };
}

test('tokens are made in every state but those of the end, and open once there is somebody to answer', async () => {
  await using b = await createEndpoints();
  const launch = b.engine.hold('launch');
  const { microvmId: id, endpoint } = await b.microvms.run({
    imageIdentifier: 'arn:aws:lambda:us-east-1:000000000000:microvm-image:demo',
    idlePolicy: { ...NO_RESUME, autoResumeEnabled: true },
  });
  const vm = { id, port: Number(endpoint.split(':')[1]), token: '' };
  const tokens = [await tokenOf(b, vm)];
  assert.equal((await b.microvms.get(id)).state, 'PENDING');
  launch[Symbol.dispose]();
  await b.until(id, 'RUNNING');
  const suspend = b.engine.hold('suspend');
  await b.microvms.suspend(id);
  assert.equal((await b.microvms.get(id)).state, 'SUSPENDING');
  tokens.push(await tokenOf(b, vm));
  suspend[Symbol.dispose]();
  await b.until(id, 'SUSPENDED');
  tokens.push(await tokenOf(b, vm));
  for (const token of tokens) assert.equal((await b.request({ ...vm, token })).status, 200);
});

test('a microVM that is ending or ended gets no tokens, and those it had get an empty 502', async () => {
  await using b = await createEndpoints();
  const [vm, other] = [await b.run(), await b.run()];
  const destroy = b.engine.hold('destroy');
  await b.microvms.terminate(vm.id);
  for (const state of ['TERMINATING', 'TERMINATED'] as const) {
    if (state === 'TERMINATED') destroy[Symbol.dispose]();
    await b.until(vm.id, state);
    const refusal = { name: DomainError.name, code: 'INVALID', message: ENDED };
    await assert.rejects(tokenOf(b, vm), refusal);
    await assert.rejects(
      b.microvms.createShellAuthToken({ microvmIdentifier: vm.id, expirationInMinutes: 5 }),
      refusal,
    );
    assert.deepEqual(await b.request(vm), { status: 502, body: '' }, state);
    const strange = await b.request({ ...vm, token: other.token });
    assert.deepEqual(strange, { status: 403, body: 'Token authentication failed' }, state);
  }
});

test('a microVM that is suspended, or about to be, and does not resume by itself answers 502', async () => {
  await using b = await createEndpoints();
  const vm = await b.run(NO_RESUME);
  const suspend = b.engine.hold('suspend');
  await b.microvms.suspend(vm.id);
  assert.deepEqual(await b.request(vm), { status: 502, body: '' });
  suspend[Symbol.dispose]();
  await b.until(vm.id, 'SUSPENDED');
  assert.deepEqual(await b.request(vm), { status: 502, body: '' });
});

test('a suspend by API lets a request under way be answered, and a new one waits for the resume', async () => {
  const slow = slowApp();
  await using b = await createEndpoints({ engine: { app: slow.app } });
  const vm = await b.run();
  const first = b.request(vm, { path: '/slow' });
  await slow.asked(1);
  await b.microvms.suspend(vm.id);
  const second = b.request(vm);
  await b.untilHeld(1);
  assert.equal((await b.microvms.get(vm.id)).state, 'SUSPENDING');
  assert.ok(!b.engine.calls.includes(`suspend ${vm.id}`));
  slow.answer();
  assert.deepEqual(await first, { status: 200, body: 'slow' });
  assert.deepEqual(await second, { status: 200, body: 'quick' });
  assert.ok(b.engine.calls.includes(`resume ${vm.id}`));
});

interface Outcome {
  readonly status: number;
  readonly isWhole: boolean;
}

/** Each in a connection of its own; `begun` resolves with the answer's head. */
function requestsOf(b: Endpoints, vm: Endpoint, path: string): { begun: Promise<unknown>; told: Promise<Outcome> }[] {
  const headers = { 'x-aws-proxy-auth': vm.token };
  const http1 = Promise.withResolvers<Outcome>();
  const sent = httpsRequest({ agent: b.agent, host: 'localhost', port: vm.port, path, headers });
  sent.on('error', http1.reject);
  sent.once('response', (response) => {
    response.on('error', () => {}).resume();
    response.once('close', () => http1.resolve({ status: response.statusCode ?? 0, isWhole: response.complete }));
  });
  const http2 = Promise.withResolvers<Outcome>();
  const session = connect(`https://localhost:${vm.port}`, { ca: b.ingress.caPem });
  const stream = session.request({ ':path': path, ...headers });
  let status = 0;
  stream.on('error', () => {}).resume();
  stream.once('response', (head) => {
    status = head[':status'] ?? 0;
  });
  stream.once('close', () => {
    session.close();
    http2.resolve({ status, isWhole: stream.rstCode === 0 });
  });
  const requests = [
    { begun: once(sent, 'response'), told: http1.promise },
    { begun: once(stream, 'response'), told: http2.promise },
  ];
  sent.end();
  return requests;
}

test('a request that outlives what a suspend waits is a 502 where no answer has begun, else one that breaks off', async () => {
  for (const path of ['/slow', '/begun']) {
    const slow = slowApp();
    await using b = await createEndpoints({ engine: { app: slow.app }, drainMs: 0 });
    const vm = await b.run();
    const requests = requestsOf(b, vm, path);
    await slow.asked(requests.length);
    if (path === '/begun') await Promise.all(requests.map(({ begun }) => begun));
    await b.suspend(vm.id);
    const expected = path === '/slow' ? { status: 502, isWhole: true } : { status: 200, isWhole: false };
    for (const { told } of requests) assert.deepEqual(await told, expected);
  }
});
