/** A server that is killed leaves its machines running; the next one takes them over and ends what nobody owns. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { endpointClient } from '../support/endpoint.ts';
import { buildImage, counterApp, untilState } from '../support/images.ts';
import { startServer, type TestServer } from '../support/server.ts';

const POLICY = { maxIdleDurationSeconds: 900, suspendedDurationSeconds: 900, autoResumeEnabled: true };

describe('a server that was killed', () => {
  let stateDir: string;
  let server: TestServer;
  let imageArn: string;

  before(async () => {
    stateDir = await mkdtemp(join(tmpdir(), 'rekindle-adoption-'));
    server = await startServer({ stateDir });
    const image = await buildImage(server, 'counter', counterApp);
    assert.equal(image.state, 'CREATED', `${image.stateReason}\n${server.log()}`);
    imageArn = image.imageArn;
  });
  after(async () => {
    await server[Symbol.asyncDispose]();
    await rm(stateDir, { recursive: true, force: true });
  });

  async function launch() {
    const { microvmId = '', endpoint = '' } = await server.microvms.runMicrovm({
      imageIdentifier: imageArn,
      idlePolicy: POLICY,
    });
    return { microvmId, endpoint };
  }

  async function count(microvm: { microvmId: string; endpoint: string }): Promise<string> {
    using client = await endpointClient(server, microvm);
    const answer = await client.get('/count');
    assert.equal(answer.status, 200, `${answer.body}\n${server.log().slice(-3000)}`);
    return answer.body;
  }

  function vmmOf(microvmId: string): number {
    const { pid } = JSON.parse(readFileSync(join(stateDir, 'run', microvmId, 'pid.json'), 'utf8')) as { pid: number };
    return pid;
  }

  async function kill(): Promise<void> {
    process.kill(server.pid, 'SIGKILL');
    await server[Symbol.asyncDispose]();
  }

  async function state(microvmId: string): Promise<string | undefined> {
    return (await server.microvms.getMicrovm({ microvmIdentifier: microvmId })).state;
  }

  test('finds its microVMs as they were: running ones in the same process, suspended ones asleep', async () => {
    const running = await launch();
    const suspended = await launch();
    for (const expected of ['1', '2']) assert.equal(await count(running), expected);
    assert.equal(await count(suspended), '1');
    await server.microvms.suspendMicrovm({ microvmIdentifier: suspended.microvmId });
    await untilState(server, suspended.microvmId, 'SUSPENDED');
    const vmm = vmmOf(running.microvmId);

    await kill();
    assert.ok(existsSync(`/proc/${vmm}`), 'the machine outlives the server');
    server = await startServer({ stateDir });

    assert.deepEqual(
      [await state(running.microvmId), await state(suspended.microvmId)],
      ['RUNNING', 'SUSPENDED'],
      server.log(),
    );
    assert.equal(await count(running), '3', 'with its memory');
    assert.equal(vmmOf(running.microvmId), vmm, 'in the same process');
    assert.equal(await count(suspended), '2', 'woken by a request');

    await server.microvms.suspendMicrovm({ microvmIdentifier: running.microvmId });
    await untilState(server, running.microvmId, 'SUSPENDED');
    assert.ok(!existsSync(`/proc/${vmm}`), 'a machine that was taken over suspends like any other');
    assert.equal(await count(running), '4');
    for (const { microvmId } of [running, suspended]) {
      await server.microvms.terminateMicrovm({ microvmIdentifier: microvmId });
      await untilState(server, microvmId, 'TERMINATED');
    }
    assert.deepEqual(readdirSync(join(stateDir, 'microvms')), []);
  });

  test('says of a microVM whose machine ended meanwhile that it is over', async () => {
    const microvm = await launch();
    assert.equal(await count(microvm), '1');
    const vmm = vmmOf(microvm.microvmId);
    await kill();
    process.kill(vmm, 'SIGKILL');
    server = await startServer({ stateDir });
    await untilState(server, microvm.microvmId, 'TERMINATED');
    assert.deepEqual(readdirSync(join(stateDir, 'run')), []);
  });

  test('is no better off than one that was told to leave its microVMs running', async () => {
    await server.stop();
    await server[Symbol.asyncDispose]();
    server = await startServer({ stateDir, args: ['--on-shutdown', 'leave'] });
    const microvm = await launch();
    assert.equal(await count(microvm), '1');
    const vmm = vmmOf(microvm.microvmId);
    assert.equal(await server.stop(), 0);
    await server[Symbol.asyncDispose]();
    assert.ok(existsSync(`/proc/${vmm}`), 'the machine runs on without a server');
    server = await startServer({ stateDir });
    assert.equal(await count(microvm), '2');
    assert.equal(vmmOf(microvm.microvmId), vmm);
    await server.microvms.terminateMicrovm({ microvmIdentifier: microvm.microvmId });
    await untilState(server, microvm.microvmId, 'TERMINATED');
  });

  test('goes on from checkpoints when its host was started anew, and wakes what fell back by a request', {
    skip: process.getuid?.() === 0 ? false : 'only root can show a server another boot id',
  }, async () => {
    await server.stop();
    await server[Symbol.asyncDispose]();
    const args = ['--checkpoint-seconds', '1'];
    server = await startServer({ stateDir, args });
    const microvm = await launch();
    for (const expected of ['1', '2']) assert.equal(await count(microvm), expected);
    const folder = join(stateDir, 'microvms', microvm.microvmId, 'checkpoints');
    const newest = () =>
      existsSync(folder) ? Math.max(0, ...readdirSync(folder).map((name) => Number(name) || 0)) : 0;
    // One that began after the last request.
    for (const from = newest(); newest() < from + 2; ) await new Promise((resolve) => setTimeout(resolve, 100));
    const vmm = vmmOf(microvm.microvmId);
    await kill();
    process.kill(vmm, 'SIGKILL');

    const bootIdFile = join(stateDir, 'another-boot');
    writeFileSync(bootIdFile, '00000000-0000-4000-8000-000000000000\n');
    server = await startServer({ stateDir, args, bootIdFile });
    const { state: now, stateReason } = await server.microvms.getMicrovm({ microvmIdentifier: microvm.microvmId });
    assert.equal(now, 'SUSPENDED', server.log());
    assert.match(stateReason ?? '', /^The host restarted; the MicroVM continues from its state of /);
    assert.equal(await count(microvm), '3');
    await server.microvms.terminateMicrovm({ microvmIdentifier: microvm.microvmId });
    await untilState(server, microvm.microvmId, 'TERMINATED');
    await server.stop();
    await server[Symbol.asyncDispose]();
    server = await startServer({ stateDir });
  });

  test('does not wait for a machine that stands still, and serves it once it goes on', async () => {
    const [frozen, other] = [await launch(), await launch()];
    for (const microvm of [frozen, other]) assert.equal(await count(microvm), '1');
    const vmm = vmmOf(frozen.microvmId);
    process.kill(vmm, 'SIGSTOP');
    await kill();
    server = await startServer({ stateDir, args: ['--on-shutdown', 'leave'] });
    assert.equal(await count(other), '2', 'while the first one stands still');
    assert.equal(await state(frozen.microvmId), 'RUNNING');
    assert.equal(await server.stop(), 0);
    await server[Symbol.asyncDispose]();
    assert.ok(existsSync(`/proc/${vmm}`), 'a server that stops leaves it to the next');

    server = await startServer({ stateDir });
    assert.equal(await count(other), '3');
    const held = count(frozen);
    process.kill(vmm, 'SIGCONT');
    assert.equal(await held, '2');
    assert.equal(vmmOf(frozen.microvmId), vmm);

    process.kill(vmm, 'SIGSTOP');
    await kill();
    server = await startServer({ stateDir });
    await server.microvms.terminateMicrovm({ microvmIdentifier: frozen.microvmId });
    await untilState(server, frozen.microvmId, 'TERMINATED');
    assert.ok(!existsSync(`/proc/${vmm}`), 'who ends it does not wait for it either');
    await server.microvms.terminateMicrovm({ microvmIdentifier: other.microvmId });
    await untilState(server, other.microvmId, 'TERMINATED');
  });

  test('ends the machine of a microVM that was taken over when it is terminated or dies', async () => {
    const [killed, terminated] = [await launch(), await launch()];
    for (const microvm of [killed, terminated]) assert.equal(await count(microvm), '1');
    await kill();
    server = await startServer({ stateDir });
    process.kill(vmmOf(killed.microvmId), 'SIGKILL');
    await untilState(server, killed.microvmId, 'TERMINATED');
    const vmm = vmmOf(terminated.microvmId);
    await server.microvms.terminateMicrovm({ microvmIdentifier: terminated.microvmId });
    await untilState(server, terminated.microvmId, 'TERMINATED');
    assert.ok(!existsSync(`/proc/${vmm}`));
  });
});
