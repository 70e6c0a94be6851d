/**
 * The main job with nothing faked: official SDK, real builder, real snapshot, real TLS. One server and one image serve all
 * cases; each case has microVMs of its own.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { endpointClient } from '../support/endpoint.ts';
import { buildImage, counterApp, untilState } from '../support/images.ts';
import { repository, startServer, type TestServer } from '../support/server.ts';
import { openShell } from '../support/shell-client.ts';

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

  async function launch(settings: { idlePolicy?: { autoResumeEnabled: boolean }; shell?: boolean } = {}) {
    const connector = (name: string) =>
      `arn:aws:lambda:${server.env.AWS_REGION}:aws:network-connector:aws-network-connector:${name}`;
    const microvm = await server.microvms.runMicrovm({
      imageIdentifier: imageArn,
      ...(settings.shell === true && {
        ingressNetworkConnectors: [connector('HTTP_INGRESS'), connector('SHELL_INGRESS')],
      }),
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

  test('a shell is a root terminal in the container, and nothing of it outlives it', async () => {
    await using microvm = await launch({ shell: true, idlePolicy: { autoResumeEnabled: true } });
    using one = await openShell(server, microvm);
    using other = await openShell(server, microvm);
    await Promise.all([one.until('λ $ '), other.until('λ $ ')]);
    assert.notEqual(one.sessionId, other.sessionId);

    assert.equal(await one.run('id -u; pwd; echo $TERM; head -c 7 /proc/1/cmdline; echo'), '0\n/\nxterm\npython3');
    assert.equal(await one.run('tr "\\0" "\\n" < /proc/1/environ | grep -c ^AWS_LAMBDA_MICROVM_IMAGE_NAME='), '1');
    assert.equal(await one.run('env | grep AWS'), '', 'nothing of the environment is inherited');
    const sameAs1 = 'for ns in cgroup ipc mnt net pid uts; do';
    const differing = `${sameAs1} [ "$(readlink /proc/1/ns/$ns)" = "$(readlink /proc/$$/ns/$ns)" ] || echo $ns; done`;
    assert.equal(await one.run(differing), '', "every namespace is the container's");
    assert.equal(await one.run('diff /proc/1/cgroup /proc/$$/cgroup'), '');
    const bounds = 'grep -E "^(CapEff|CapBnd|NoNewPrivs|Seccomp):" /proc/$$/status';
    assert.equal(await one.run(bounds), await one.run(bounds.replace('$$', '1')), "no more than the app's own root");

    one.resize(132, 43);
    assert.equal(await one.run('stty size'), '43 132');
    assert.equal(await other.run('stty size'), '24 80');
    one.type('sh -c "echo run\'\'ning; exec sleep 1000"\r');
    await one.until('running');
    one.type('\x03');
    await one.until('λ $ ');
    one.type('echo code=$?\r');
    await one.until('code=130');
    await one.until('λ $ ');

    await one.run('sleep 1000 & (trap "" HUP; exec sleep 1000) & true');
    one.type('exit\r');
    assert.deepEqual(await one.closed, { code: 1000, reason: 'shell exited' });
    // An app that is no init leaves the dead of others unburied: those are not counted.
    const sleepers = 'cat /proc/[0-9]*/stat 2>/dev/null | grep -c "(sleep) [^Z]"';
    assert.equal(await other.run(sleepers), '0');

    await server.microvms.suspendMicrovm({ microvmIdentifier: microvm.microvmId });
    assert.deepEqual(await other.closed, { code: 1001, reason: 'the microVM was suspended or ended' });
    await untilState(server, microvm.microvmId, 'SUSPENDED');
    using woken = await openShell(server, microvm);
    await woken.until('λ $ ');
    assert.equal(await woken.run(`ls /dev/pts | grep -c '[0-9]'`), '1', 'the shell of before is gone');
  });

  test('there is no shell without SHELL_INGRESS', async () => {
    await using microvm = await launch();
    await assert.rejects(openShell(server, microvm), { name: 'ValidationException', message: /SHELL_INGRESS/ });
  });

  test('a tunnel carries TCP into the guest, and its next connection wakes a suspended one', async () => {
    await using microvm = await launch({ idlePolicy: { autoResumeEnabled: true } });
    const args = ['tunnel', microvm.microvmId, '0:8080', '--state', server.stateDir];
    const tunnel = spawn(join(repository, 'bin/rekindle'), args, { stdio: ['ignore', 'pipe', 'inherit'] });
    const ended = once(tunnel, 'exit');
    try {
      const [line] = await once(createInterface({ input: tunnel.stdout }), 'line');
      const port = Number(/^127\.0\.0\.1:(\d+) leads/.exec(line)?.[1]);
      const ask = async () => {
        const socket = connect(port, '127.0.0.1');
        // Its half is over before the answer comes.
        socket.end('GET /count HTTP/1.0\r\n\r\n');
        return (await text(socket)).split('\r\n\r\n')[1];
      };
      assert.equal(await ask(), '1');
      await server.microvms.suspendMicrovm({ microvmIdentifier: microvm.microvmId });
      await untilState(server, microvm.microvmId, 'SUSPENDED');
      assert.equal(await ask(), '2');
    } finally {
      tunnel.kill('SIGINT');
    }
    assert.deepEqual(await ended, [0, null]);
  });

  async function rekindle(on: TestServer, ...args: string[]): Promise<string> {
    const { stdout } = await promisify(execFile)(join(repository, 'bin/rekindle'), [...args, '--state', on.stateDir]);
    return stdout.trim();
  }

  test('the version goes to another server as one file and counts there; its root disk holds what its build copied', async () => {
    await using other = await startServer();
    const file = join(other.stateDir, 'counter.rekindle');
    await rekindle(server, 'images', 'export', 'counter:1.0', file);
    await rekindle(other, 'images', 'import', file, '--name', 'moved');
    const id = await rekindle(other, 'run', 'moved');
    assert.equal(await rekindle(other, 'curl', id, '/count'), '1');
    await rekindle(other, 'rm', id);
    const disk = join(other.stateDir, 'disk.ext4');
    await rekindle(other, 'images', 'root-disk', 'moved', disk);
    const { size, blocks } = statSync(disk);
    assert.ok(size === 8 * 1024 ** 3 && blocks * 512 < size / 4, `${blocks * 512} of ${size} bytes`);
    // Beside mke2fs, in a folder that not everybody's PATH has.
    const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
    const copied = await promisify(execFile)('debugfs', ['-R', 'cat /app/app.py', disk], { env });
    assert.equal(copied.stdout, counterApp['app.py']);
  });

  test('sealed anew it is the same version: what slept wakes with its memory, what is launched starts afresh', async () => {
    await using sleeper = await launch({ idlePolicy: { autoResumeEnabled: true } });
    assert.equal((await sleeper.client.get('/count')).body, '1');
    await server.microvms.suspendMicrovm({ microvmIdentifier: sleeper.microvmId });
    await untilState(server, sleeper.microvmId, 'SUSPENDED');
    await rekindle(server, 'images', 'reseal', 'counter:1.0');
    assert.equal((await sleeper.client.get('/count')).body, '2');
    await using fresh = await launch();
    assert.equal((await fresh.client.get('/count')).body, '1');
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
