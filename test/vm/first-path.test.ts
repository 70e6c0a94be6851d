/**
 * The main job with nothing faked: official SDK, real builder, real snapshot, real TLS. One server and one image serve all
 * cases; each case has microVMs of its own.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { endpointClient } from '../support/endpoint.ts';
import { buildImage, counterApp, untilState } from '../support/images.ts';
import { startServer, type TestServer } from '../support/server.ts';

/** Processes whose command line names `text`, this one aside. */
function processesNaming(text: string): string[] {
  return readdirSync('/proc')
    .filter((pid) => /^\d+$/.test(pid) && pid !== String(process.pid))
    .filter((pid) => {
      try {
        return readFileSync(join('/proc', pid, 'cmdline'), 'utf8').includes(text);
      } catch {
        return false;
      }
    });
}

describe('the first real path', () => {
  let server: TestServer;
  let imageArn: string;

  before(async () => {
    server = await startServer();
    const image = await buildImage(server, 'counter', counterApp);
    assert.equal(image.state, 'CREATED', `${image.stateReason}\n${server.log()}`);
    imageArn = image.imageArn;
  });
  after(async () => {
    const { stateDir } = server;
    await server[Symbol.asyncDispose]();
    assert.deepEqual(processesNaming(stateDir), [], 'no process of the server is left');
  });

  async function launch(settings: { idlePolicy?: { autoResumeEnabled: boolean } } = {}) {
    const microvm = await server.microvms.runMicrovm({
      imageIdentifier: imageArn,
      ...(settings.idlePolicy && {
        idlePolicy: { maxIdleDurationSeconds: 900, suspendedDurationSeconds: 900, ...settings.idlePolicy },
      }),
    });
    const named = { microvmId: microvm.microvmId ?? '', endpoint: microvm.endpoint ?? '', state: microvm.state };
    const client = await endpointClient(server, named);
    return {
      ...named,
      client,
      [Symbol.asyncDispose]: async () => {
        client[Symbol.dispose]();
        await server.microvms.terminateMicrovm({ microvmIdentifier: named.microvmId });
        await untilState(server, named.microvmId, 'TERMINATED').catch((error: Error) => {
          if (!error.message.includes('is TERMINATED')) throw error;
        });
      },
    };
  }

  test('a launched microVM answers through its own endpoint, survives suspend, and is gone when terminated', async () => {
    const microvm = await launch({ idlePolicy: { autoResumeEnabled: true } });
    assert.equal(microvm.state, 'PENDING');
    for (const expected of ['1', '2', '3']) {
      const answer = await microvm.client.get('/count');
      assert.deepEqual([answer.status, answer.body], [200, expected]);
    }
    assert.notDeepEqual(processesNaming(microvm.microvmId), [], 'its QEMU names it');

    await server.microvms.suspendMicrovm({ microvmIdentifier: microvm.microvmId });
    await untilState(server, microvm.microvmId, 'SUSPENDED');
    assert.deepEqual(processesNaming(microvm.microvmId), [], 'a suspended microVM has no process');

    assert.equal((await microvm.client.get('/count')).body, '4', 'woken by the request with its memory');
    await microvm[Symbol.asyncDispose]();
    assert.deepEqual(processesNaming(microvm.microvmId), []);
    assert.equal((await server.microvms.getMicrovm({ microvmIdentifier: microvm.microvmId })).stateReason, 'Success.');
  });

  test('ResumeMicrovm brings a suspended microVM back without traffic', async () => {
    await using microvm = await launch();
    await microvm.client.get('/count');
    await server.microvms.suspendMicrovm({ microvmIdentifier: microvm.microvmId });
    await untilState(server, microvm.microvmId, 'SUSPENDED');
    assert.equal((await microvm.client.get('/count')).status, 502, 'without an idle policy traffic does not wake it');
    await server.microvms.resumeMicrovm({ microvmIdentifier: microvm.microvmId });
    await untilState(server, microvm.microvmId, 'RUNNING');
    assert.equal((await microvm.client.get('/count')).body, '2');
  });

  test('clones of one snapshot draw different random numbers and have the right time', async () => {
    const draws = new Set<string>();
    for (let clone = 0; clone < 4; clone++) {
      await using microvm = await launch();
      draws.add((await microvm.client.get('/random')).body);
      // The image is older than this; how near the clock comes is bench/first-path's to say, on a quiet machine.
      const toleranceMs = 5000;
      const beforeMs = Date.now();
      const guestMs = Number((await microvm.client.get('/time')).body);
      assert.ok(
        guestMs >= beforeMs - toleranceMs && guestMs <= Date.now() + toleranceMs,
        `guest says ${guestMs}, host ${beforeMs}`,
      );
    }
    assert.equal(draws.size, 4);
  });

  test('the guest sees four times the minimum memory', async () => {
    await using microvm = await launch();
    const totalMiB = Number((await microvm.client.get('/memory')).body) / 1024;
    assert.ok(totalMiB > 1800 && totalMiB <= 2048, `MemTotal is ${totalMiB} MiB`);
  });

  test('a token opens only its own microVM and its own ports', async () => {
    await using one = await launch();
    await using other = await launch();
    const foreign = await server.microvms.createMicrovmAuthToken({
      microvmIdentifier: other.microvmId,
      expirationInMinutes: 5,
      allowedPorts: [{ allPorts: {} }],
    });
    const token = foreign.authToken?.['X-aws-proxy-auth'] ?? '';
    const refused = await one.client.get('/', { token });
    assert.deepEqual([refused.status, refused.body], [403, 'Token authentication failed']);
    const outside = await one.client.get('/', { port: 9999 });
    assert.deepEqual([outside.status, outside.body], [403, 'Access to port denied']);
    const garbage = await one.client.get('/', { token: 'not-a-token' });
    assert.deepEqual([garbage.status, garbage.body], [403, 'Request missing authentication']);
  });

  test('twenty microVMs launched at once all answer', async () => {
    await using stack = new AsyncDisposableStack();
    const answers = await Promise.all(
      Array.from({ length: 20 }, async () => {
        const microvm = await launch();
        stack.use(microvm);
        return await microvm.client.get('/count');
      }),
    );
    assert.deepEqual(
      answers.map((answer) => [answer.status, answer.body]),
      Array(20).fill([200, '1']),
    );
  });

  test('an app that ends terminates its microVM with its exit code', async () => {
    await using microvm = await launch();
    assert.equal((await microvm.client.get('/exit')).status, 502);
    await untilState(server, microvm.microvmId, 'TERMINATED', 200);
    const { stateReason } = await server.microvms.getMicrovm({ microvmIdentifier: microvm.microvmId });
    assert.equal(stateReason, 'Container Stopped with Exit Code: 7');
  });
});
