/**
 * Machines that come to their end unasked: each becomes TERMINATED with a reason its caller understands, leaves its last
 * words in the server's log, and its neighbours notice nothing.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { type EndpointClient, endpointClient } from '../support/endpoint.ts';
import { type ArtifactFiles, counterApp, zipped } from '../support/images.ts';
import { startServer, type TestServer } from '../support/server.ts';

const END_TIMEOUT_MS = 90_000;
const BUILD_TIMEOUT_MS = 600_000;
const POLL_MS = 100;

/** The counter, and ways to die: /exit with 7, /panic by the kernel's own key (its /proc is read-only, one it mounts is not), /hog by want of memory. */
const mortalApp: ArtifactFiles = {
  ...counterApp,
  'app.py': (counterApp['app.py'] ?? '').replace(
    '        else:\n',
    `        elif self.path == "/panic":
            import ctypes
            libc = ctypes.CDLL(None, use_errno=True)
            os.makedirs("/tmp/proc", exist_ok=True)
            if libc.mount(b"proc", b"/tmp/proc", b"proc", 0, None) != 0:
                print("mount:", os.strerror(ctypes.get_errno()), flush=True)
            with open("/tmp/proc/sysrq-trigger", "w") as key:
                key.write("c")
        elif self.path == "/hog":
            hoard = []
            while True:
                hoard.append(b"x" * (16 * 1024 * 1024))
        else:
`,
  ),
};

interface Mortal {
  readonly microvmId: string;
  readonly client: EndpointClient;
}

describe('a machine that dies', () => {
  let stateDir: string;
  let server: TestServer;
  let imageArn: string;
  let neighbour: Mortal;
  let counted = 0;

  before(async () => {
    stateDir = await mkdtemp(join(tmpdir(), 'rekindle-deaths-'));
    server = await startServer({ stateDir });
    imageArn = await buildMortal();
    neighbour = await launch();
  });
  after(async () => {
    await server[Symbol.asyncDispose]();
    await rm(stateDir, { recursive: true, force: true });
  });

  /** With every capability: an app without them has no way to the kernel's keys. */
  async function buildMortal(): Promise<string> {
    const { env, microvms, s3 } = server;
    const bucket = env.REKINDLE_ARTIFACT_BUCKET ?? '';
    await s3.putObject({ Bucket: bucket, Key: 'mortal.zip', Body: await zipped(mortalApp) });
    const { imageArn: imageIdentifier } = await microvms.createMicrovmImage({
      name: 'mortal',
      baseImageArn: env.REKINDLE_BASE_IMAGE_ARN ?? '',
      buildRoleArn: env.REKINDLE_BUILD_ROLE_ARN ?? '',
      codeArtifact: { uri: `s3://${bucket}/mortal.zip` },
      resources: [{ minimumMemoryInMiB: 512 }],
      additionalOsCapabilities: ['ALL'],
    });
    for (const deadline = performance.now() + BUILD_TIMEOUT_MS; ; await delay(POLL_MS)) {
      const { state } = await microvms.getMicrovmImage({ imageIdentifier });
      if (state === 'CREATED') return imageIdentifier ?? '';
      assert.ok(state === 'CREATING' && performance.now() < deadline, `${state}\n${server.log()}`);
    }
  }

  async function launch(): Promise<Mortal> {
    const { microvmId = '', endpoint = '' } = await server.microvms.runMicrovm({ imageIdentifier: imageArn });
    const client = await endpointClient(server, { microvmId, endpoint });
    const answer = await client.get('/count');
    assert.deepEqual([answer.status, answer.body], [200, '1'], server.log().slice(-3000));
    return { microvmId, client };
  }

  /** Resolves with the reason once it is over. */
  async function end({ microvmId, client }: Mortal): Promise<string | undefined> {
    const deadline = performance.now() + END_TIMEOUT_MS;
    for (;;) {
      const { state, stateReason } = await server.microvms.getMicrovm({ microvmIdentifier: microvmId });
      if (state === 'TERMINATED') {
        client[Symbol.dispose]();
        return stateReason;
      }
      assert.ok(performance.now() < deadline, `${microvmId} is still ${state}\n${server.log().slice(-3000)}`);
      await delay(POLL_MS);
    }
  }

  /** What the log keeps of a machine's console, under a message. */
  function lastWords({ microvmId }: Mortal, message: string): string {
    const lines = server
      .log()
      .split('\n')
      .filter((line) => line.includes(microvmId) && line.includes(message));
    assert.equal(lines.length, 1, server.log().slice(-3000));
    return (JSON.parse(lines[0] ?? '') as { evidence?: string }).evidence ?? '';
  }

  function vmmOf({ microvmId }: Mortal): number {
    const { pid } = JSON.parse(readFileSync(join(stateDir, 'run', microvmId, 'pid.json'), 'utf8')) as { pid: number };
    return pid;
  }

  async function neighbourGoesOn(): Promise<void> {
    const answer = await neighbour.client.get('/count');
    assert.deepEqual([answer.status, answer.body], [200, String(++counted + 1)], 'the neighbour counts on');
    assert.deepEqual(readdirSync(join(stateDir, 'microvms')), [neighbour.microvmId], 'nothing is left of the dead');
  }

  test('a VMM killed from outside ends its microVM alone', async () => {
    const mortal = await launch();
    process.kill(vmmOf(mortal), 'SIGKILL');
    assert.equal(await end(mortal), 'The MicroVM stopped unexpectedly.');
    await neighbourGoesOn();
  });

  test('a kernel that panics is told apart, and its console is in the log', async () => {
    const mortal = await launch();
    assert.equal((await mortal.client.get('/panic')).status, 502);
    assert.equal(await end(mortal), 'The operating system of the MicroVM stopped.', server.log().slice(-5000));
    assert.match(lastWords(mortal, 'guest ended'), /Kernel panic - not syncing: sysrq triggered crash/);
    await neighbourGoesOn();
  });

  test('an app that exits answers 502 at once and ends its microVM with its code', async () => {
    const mortal = await launch();
    assert.equal((await mortal.client.get('/exit')).status, 502);
    assert.equal((await mortal.client.get('/count')).status, 502);
    const seen = await server.microvms.getMicrovm({ microvmIdentifier: mortal.microvmId });
    assert.ok(seen.state === 'RUNNING' || seen.state === 'TERMINATED', `shown ${seen.state}`);
    assert.equal(await end(mortal), 'Container Stopped with Exit Code: 7');
    await neighbourGoesOn();
  });

  test('an app killed for want of memory ends as one killed by SIGKILL, and the log says why', async () => {
    const mortal = await launch();
    assert.equal((await mortal.client.get('/hog', { timeoutMs: END_TIMEOUT_MS })).status, 502);
    assert.equal(await end(mortal), 'Container Stopped with Exit Code: 137', server.log().slice(-5000));
    assert.match(lastWords(mortal, 'app failed'), /[Oo]ut of memory: Killed process \d+ \(python3\)/);
    await neighbourGoesOn();
  });

  test('what a machine prints after a later server took it over is kept as well', async () => {
    const mortal = await launch();
    const { endpoint = '' } = await server.microvms.getMicrovm({ microvmIdentifier: mortal.microvmId });
    const { endpoint: address = '' } = await server.microvms.getMicrovm({ microvmIdentifier: neighbour.microvmId });
    for (const { client } of [mortal, neighbour]) client[Symbol.dispose]();
    process.kill(server.pid, 'SIGKILL');
    await server[Symbol.asyncDispose]();
    server = await startServer({ stateDir });
    const adopted = { ...mortal, client: await endpointClient(server, { ...mortal, endpoint }) };
    neighbour = { ...neighbour, client: await endpointClient(server, { ...neighbour, endpoint: address }) };
    assert.equal((await adopted.client.get('/panic')).status, 502);
    assert.equal(await end(adopted), 'The operating system of the MicroVM stopped.', server.log().slice(-5000));
    assert.match(lastWords(adopted, 'guest ended'), /Kernel panic - not syncing: sysrq triggered crash/);
    await neighbourGoesOn();
    neighbour.client[Symbol.dispose]();
    await server.microvms.terminateMicrovm({ microvmIdentifier: neighbour.microvmId });
  });
});
