import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { FakeEngineOptions } from '../engine/index.ts';
import type { Hooks } from '../images/index.ts';
import { bench, IDLE } from './test-bench.ts';

const hooks: Hooks = {
  port: 9000,
  microvmHooks: { run: 'ENABLED', resume: 'ENABLED', suspend: 'ENABLED', terminate: 'ENABLED' },
};

/** An app whose hooks answer with the given status, 200 where none is given, and that notes what was called. */
function hookApp(statuses: Record<string, number>, seen: string[]): FakeEngineOptions {
  return {
    app: () => (request, response) => {
      let body = '';
      request.setEncoding('utf8').on('data', (chunk) => {
        body += chunk;
      });
      request.on('end', () => {
        const name = request.url?.split('/').at(-1) ?? '';
        seen.push(`${request.method} ${request.headers.host} ${request.url} ${body}`.trim());
        response.statusCode = statuses[name] ?? 200;
        response.end();
      });
    },
  };
}

test('each hook is called at its moment with its body', async () => {
  const seen: string[] = [];
  await using b = await bench({ hooks, engine: hookApp({}, seen) });
  const id = await b.run({ runHookPayload: 'hello' });
  await b.until(id, 'RUNNING');
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  await b.microvms.resume(id);
  await b.until(id, 'RUNNING');
  await b.microvms.terminate(id);
  await b.until(id, 'TERMINATED');
  const prefix = 'POST localhost:9000 /aws/lambda-microvms/runtime/v1';
  assert.deepEqual(seen, [
    `${prefix}/run ${JSON.stringify({ microvmId: id, runHookPayload: 'hello' })}`,
    `${prefix}/suspend`,
    `${prefix}/resume`,
    `${prefix}/terminate`,
  ]);
});

for (const [hook, reason] of [
  [
    'run',
    'Run lifecycle hook returned HTTP status 400. Please check your hook endpoint and application logs for more details.',
  ],
  [
    'suspend',
    'Suspend lifecycle hook returned HTTP status 400. Please check your hook endpoint and application logs for more details.',
  ],
] as const) {
  test(`a ${hook} hook that refuses ends the microVM in the recorded words`, async () => {
    await using b = await bench({ hooks, engine: hookApp({ [hook]: 400 }, []) });
    const id = await b.run();
    if (hook === 'suspend') {
      await b.until(id, 'RUNNING');
      await b.microvms.suspend(id);
    }
    await b.until(id, 'TERMINATED');
    assert.equal((await b.microvms.get(id)).stateReason, reason);
    assert.equal(b.engine.machines.size, 0);
  });
}

test('a resume hook that refuses leaves it SUSPENDED', async () => {
  await using b = await bench({ hooks, engine: hookApp({ resume: 500 }, []) });
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  await assert.rejects(b.microvms.wake(id, {}), { code: 'CONFLICT' });
  assert.equal((await b.microvms.get(id)).state, 'SUSPENDED');
  assert.equal(b.engine.machines.size, 0);
});

test('a payload without a run hook is refused', async () => {
  await using b = await bench();
  await assert.rejects(b.run({ runHookPayload: 'x' }), { code: 'INVALID' });
});
