/**
 * The samples of examples/, built and asked as their README says: by the command line, on real machines. They fetch packages, so
 * this is for hosts that reach Debian, npm and PyPI (through a proxy: REKINDLE_NETWORKS and REKINDLE_REGISTRIES, as for any server).
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { CloudWatchLogsClient, FilterLogEventsCommand } from '@aws-sdk/client-cloudwatch-logs';
import { WebSocket } from 'ws';
import { repository, run, startServer, type TestServer } from '../support/server.ts';

const skip = process.env.REKINDLE_LONG_TESTS === '1' ? false : 'REKINDLE_LONG_TESTS=1 runs it';
const OPEN_TIMEOUT_MS = 90_000;
const LOG_TIMEOUT_MS = 10_000;

describe('samples', { skip }, () => {
  let server: TestServer;
  before(async () => {
    server = await startServer();
  });
  after(() => server[Symbol.asyncDispose]());

  const rekindle = (...args: string[]) => run(...args, '--state', server.stateDir);

  /** Builds the sample, starts one of it and ends it afterwards. */
  async function started(name: string): Promise<{ id: string } & AsyncDisposable> {
    const folder = join(repository, 'examples', name);
    const hooks = join(folder, 'hooks.json');
    await rekindle('images', 'build', folder, ...(existsSync(hooks) ? ['--hooks', hooks] : []));
    const id = (await rekindle('run', name)).trim();
    return { id, [Symbol.asyncDispose]: async () => void (await rekindle('rm', id)) };
  }

  async function asked(id: string, ...args: string[]): Promise<Record<string, unknown>> {
    return JSON.parse(await rekindle('curl', id, ...args));
  }

  /** What the app has said by now, as CloudWatch Logs hands it out. */
  async function logged(image: string, text: string): Promise<void> {
    const { env } = server;
    const client = new CloudWatchLogsClient({
      region: env.AWS_REGION ?? '',
      endpoint: env.AWS_ENDPOINT_URL_CLOUDWATCH_LOGS ?? '',
      credentials: { accessKeyId: env.AWS_ACCESS_KEY_ID ?? '', secretAccessKey: env.AWS_SECRET_ACCESS_KEY ?? '' },
    });
    try {
      const filter = { logGroupName: `/aws/lambda-microvms/${image}`, filterPattern: `"${text}"` };
      for (const late = AbortSignal.timeout(LOG_TIMEOUT_MS); !late.aborted; ) {
        const { events = [] } = await client.send(new FilterLogEventsCommand(filter));
        if (events.length > 0) return;
      }
      assert.fail(`the log of ${image} has no "${text}"`);
    } finally {
      client.destroy();
    }
  }

  test('counter counts on after a suspend', async () => {
    await using counter = await started('counter');
    assert.equal((await asked(counter.id, '/count')).count, 1);
    await rekindle('suspend', counter.id);
    assert.equal((await asked(counter.id, '/count')).count, 2);
  });

  test('from-zip knows which microVM it is', async () => {
    await using sample = await started('from-zip');
    const { id } = sample;
    assert.deepEqual(await asked(id), { status: 'ok', microvm_id: id });
    await logged('from-zip', 'hook run');
  });

  test('code-sandbox runs code for two clients at once, and ends what is endless', async () => {
    await using sample = await started('code-sandbox');
    const { id } = sample;
    const execute = (code: string) => asked(id, '/execute', '-d', JSON.stringify({ code, timeoutSeconds: 5 }));
    const [endless, short] = await Promise.all([
      execute('import os\nos.fork()\nwhile True: pass'),
      execute('import os\nprint(6 * 7, os.getuid())'),
    ]);
    assert.deepEqual(short, { stdout: '42 1000\n', stderr: '', exitCode: 0, timedOut: false });
    assert.equal(endless.timedOut, true);
    const loud = await execute("while True: print('x' * 1000)");
    assert.equal(String(loud.stdout).length, 1 << 20);
    await rekindle('suspend', id);
    assert.equal((await execute('print("awake")')).stdout, 'awake\n');
    await logged('code-sandbox', 'hook resume');
  });

  test('flask answers as announced', async () => {
    await using sample = await started('flask');
    const { id } = sample;
    assert.deepEqual(await asked(id, '/', '-p', '5000'), { message: 'Hello from a MicroVM', count: 1 });
    await logged('flask', 'Listening at: http://0.0.0.0:5000');
  });

  test('node-app answers with what npm installed', async () => {
    await using sample = await started('node-app');
    const { id } = sample;
    assert.deepEqual(await asked(id, '/', '-p', '3000'), { message: 'Hello from Node', count: 1 });
  });

  test('go-multistage answers from a static binary', async () => {
    await using sample = await started('go-multistage');
    const { id } = sample;
    assert.equal(await rekindle('curl', id, '/'), 'Hello from Go, 1\n');
  });

  test('code-server keeps files and talks over WebSockets, also after a suspend', async () => {
    await using sample = await started('code-server');
    const { id } = sample;
    await rekindle('curl', id, '/files/hello.txt', '-X', 'PUT', '-d', 'hello');
    assert.deepEqual(await asked(id, '/'), { user: 1000, files: ['hello.txt'] });
    assert.equal(await typed(id, 'cat hello.txt; id -un'), 'hellonode\n');
    await rekindle('suspend', id);
    assert.equal(await typed(id, 'cat hello.txt; id -un'), 'hellonode\n');
  });

  /** One command over a WebSocket, which a browser's script could open: its token is a subprotocol. */
  async function typed(microvmIdentifier: string, command: string): Promise<string> {
    const { authToken } = await server.microvms.createMicrovmAuthToken({
      microvmIdentifier,
      expirationInMinutes: 5,
      allowedPorts: [{ port: 8080 }],
    });
    const { endpoint } = await server.microvms.getMicrovm({ microvmIdentifier });
    const token = authToken?.['X-aws-proxy-auth'];
    const protocols = ['lambda-microvms', `lambda-microvms.authentication.${token}`, 'lambda-microvms.port.8080'];
    const ca = readFileSync(server.env.NODE_EXTRA_CA_CERTS ?? '');
    const socket = new WebSocket(`wss://${endpoint}/terminal`, protocols, { ca, handshakeTimeout: OPEN_TIMEOUT_MS });
    try {
      await once(socket, 'open');
      const said = once(socket, 'message', { signal: AbortSignal.timeout(OPEN_TIMEOUT_MS) });
      socket.send(command);
      return String((await said)[0]);
    } finally {
      socket.terminate();
    }
  }
});
