import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { request } from 'node:https';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { LambdaMicrovms } from '@aws-sdk/client-lambda-microvms';
import { ListBucketsCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { loadConfig, type RawSettings } from './config.ts';
import { createFakeDisk, createFakeEngine, type FakeEngine } from './engine/index.ts';
import { provisionsOf, readAccessKey } from './home/index.ts';
import { DomainError, silentLogger } from './lib/index.ts';
import { type Server, startServer } from './main.ts';

async function folder(): Promise<AsyncDisposable & { dir: string }> {
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-main-'));
  return { dir, [Symbol.asyncDispose]: () => rm(dir, { recursive: true }) };
}

function start(state: string, engine: FakeEngine = createFakeEngine(), settings: RawSettings = {}): Promise<Server> {
  const config = loadConfig({ apiPort: '0', ...settings, state }, {});
  return startServer(config, { log: silentLogger, openEngine: async () => engine });
}

function clients(server: Server, stateDir: string): Disposable & { microvms: LambdaMicrovms; s3: S3Client } {
  const credentials = readAccessKey(stateDir);
  assert.ok(credentials);
  const common = { region: server.record.region, credentials };
  const microvms = new LambdaMicrovms({ ...common, endpoint: server.apiUrl });
  const s3 = new S3Client({ ...common, endpoint: server.s3Url, forcePathStyle: true });
  return {
    microvms,
    s3,
    [Symbol.dispose]: () => {
      microvms.destroy();
      s3.destroy();
    },
  };
}

test('a first start makes keys, authority and artifact bucket, and both wires answer the official clients', async () => {
  await using home = await folder();
  await using server = await start(home.dir);
  using sdk = clients(server, home.dir);
  assert.deepEqual((await sdk.microvms.listMicrovms({})).items, []);
  const { Buckets = [] } = await sdk.s3.send(new ListBucketsCommand({}));
  assert.deepEqual(
    Buckets.map((bucket) => bucket.Name),
    [provisionsOf(server.record).artifactBucket],
  );
  for (const file of ['server.json', 'credentials.json', 'tls/server.key']) {
    assert.equal((await stat(join(home.dir, file))).mode & 0o777, 0o600, file);
  }
});

test('a second server on the same folder is refused with the pid of the first; on another folder it runs beside it', async () => {
  await using home = await folder();
  await using first = await start(home.dir);
  await assert.rejects(start(home.dir), (error: unknown) => {
    return error instanceof DomainError && error.message.includes(`Process ${process.pid} already serves`);
  });
  await using other = await folder();
  await using second = await start(other.dir);
  assert.notEqual(second.apiUrl, first.apiUrl);
});

test('a port in use is refused with the flag that chooses another, and the folder is free again', async () => {
  await using home = await folder();
  const blocker = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => blocker.once('listening', resolve));
  const address = blocker.address();
  assert.ok(typeof address === 'object' && address !== null);
  await assert.rejects(
    start(home.dir, createFakeEngine(), { apiPort: String(address.port) }),
    new RegExp(`Port ${address.port} .* in use. Choose another with --api-port`),
  );
  await new Promise((resolve) => blocker.close(resolve));
  await using server = await start(home.dir);
  assert.ok(server.record.apiPort);
});

test('a stopped server suspends what runs; the next one has the same ports and wakes it with its memory', async () => {
  await using home = await folder();
  const disk = createFakeDisk();
  await using first = await start(home.dir, createFakeEngine({ disk }));
  const microvmId = await runningMicrovm(first, home.dir);
  await first.stop();

  const engine = createFakeEngine({ disk });
  await using second = await start(home.dir, engine, { apiPort: String(first.record.apiPort) });
  assert.equal(second.record.s3Port, first.record.s3Port);
  using sdk = clients(second, home.dir);
  assert.equal((await sdk.microvms.getMicrovm({ microvmIdentifier: microvmId })).state, 'SUSPENDED');
  await sdk.microvms.resumeMicrovm({ microvmIdentifier: microvmId });
  await until(async () => (await sdk.microvms.getMicrovm({ microvmIdentifier: microvmId })).state === 'RUNNING');
  assert.ok(engine.calls.includes(`resume ${microvmId}`));
});

test('a server that is stopped during a resume waits for it, and suspends what came of it', async () => {
  await using home = await folder();
  const disk = createFakeDisk();
  const engine = createFakeEngine({ disk });
  await using first = await start(home.dir, engine);
  const microvmId = await runningMicrovm(first, home.dir);
  const resumed = engine.hold('resumed');
  {
    using sdk = clients(first, home.dir);
    await sdk.microvms.suspendMicrovm({ microvmIdentifier: microvmId });
    await until(async () => (await sdk.microvms.getMicrovm({ microvmIdentifier: microvmId })).state === 'SUSPENDED');
    await sdk.microvms.resumeMicrovm({ microvmIdentifier: microvmId });
    await until(async () => engine.calls.includes(`resume ${microvmId}`));
  }
  const stopped = first.stop();
  await assert.rejects(fetch(first.apiUrl));
  resumed[Symbol.dispose]();
  await stopped;
  assert.equal(engine.calls.filter((call) => call === `suspend ${microvmId}`).length, 2);
  assert.equal(engine.machines.size, 0);

  await using second = await start(home.dir, createFakeEngine({ disk }));
  using sdk = clients(second, home.dir);
  assert.equal((await sdk.microvms.getMicrovm({ microvmIdentifier: microvmId })).state, 'SUSPENDED');
});

test('with onShutdown terminate nothing is left to resume', async () => {
  await using home = await folder();
  const server = await start(home.dir, createFakeEngine(), { onShutdown: 'terminate' });
  await Promise.all([server.stop(), server.stop()]);
  await assert.rejects(fetch(server.apiUrl));
});

test('an endpoint outlives restarts in both modes, and follows when the mode changes', async () => {
  await using home = await folder();
  const disk = createFakeDisk();
  const serve = (settings: RawSettings) => start(home.dir, createFakeEngine({ disk }), settings);
  const addressOf = async (server: Server, microvmId: string) => {
    using sdk = clients(server, home.dir);
    const { endpoint = '' } = await sdk.microvms.getMicrovm({ microvmIdentifier: microvmId });
    const { authToken = {} } = await sdk.microvms.createMicrovmAuthToken({
      microvmIdentifier: microvmId,
      expirationInMinutes: 1,
      allowedPorts: [{ port: 8080 }],
    });
    await sdk.microvms.resumeMicrovm({ microvmIdentifier: microvmId });
    const ca = await readFile(join(home.dir, 'tls/ca.pem'), 'utf8');
    const { hostname, port } = new URL(`https://${endpoint}`);
    const headers = { ...authToken, host: endpoint };
    const sent = request({ host: '127.0.0.1', port, servername: hostname, headers, ca, agent: false }).end();
    const [answer] = await once(sent, 'response');
    assert.equal(answer.statusCode, 200, endpoint);
    answer.resume();
    return endpoint;
  };
  const addresses: string[] = [];
  const hosts = { endpointMode: 'host', endpointListen: '127.0.0.1:0' };
  let microvmId = '';
  for (const settings of [{}, {}, hosts, hosts, {}]) {
    await using server = await serve(settings);
    if (microvmId === '') {
      microvmId = await runningMicrovm(server, home.dir);
      using sdk = clients(server, home.dir);
      await sdk.microvms.suspendMicrovm({ microvmIdentifier: microvmId });
      await until(async () => (await sdk.microvms.getMicrovm({ microvmIdentifier: microvmId })).state === 'SUSPENDED');
    }
    addresses.push((await addressOf(server, microvmId)).replace(/(localhost):\d+$/, settings === hosts ? '$1' : '$&'));
  }
  const [port = '', again, name = '', nameAgain, back] = addresses;
  assert.match(port, /^localhost:\d+$/);
  assert.match(name, /^[0-9a-f-]{36}\.lambda-microvm\.us-east-1\.localhost$/);
  assert.deepEqual([again, nameAgain, back], [port, name, port]);
});

test("in host mode an ended microVM's name answers 502 to who holds its token, also after a restart", async () => {
  await using home = await folder();
  const serve = () => start(home.dir, createFakeEngine(), { endpointMode: 'host', endpointListen: '127.0.0.1:0' });
  let [microvmId, name, token] = ['', '', ''];
  const ask = async (port: string) => {
    const ca = await readFile(join(home.dir, 'tls/ca.pem'), 'utf8');
    const headers = { 'x-aws-proxy-auth': token, host: name };
    const sent = request({ host: '127.0.0.1', port, servername: name, headers, ca, agent: false }).end();
    const [answer] = await once(sent, 'response');
    answer.resume();
    return answer.statusCode;
  };
  {
    await using server = await serve();
    microvmId = await runningMicrovm(server, home.dir);
    using sdk = clients(server, home.dir);
    const { endpoint = '' } = await sdk.microvms.getMicrovm({ microvmIdentifier: microvmId });
    const { authToken = {} } = await sdk.microvms.createMicrovmAuthToken({
      microvmIdentifier: microvmId,
      expirationInMinutes: 1,
      allowedPorts: [{ allPorts: {} }],
    });
    const { hostname, port } = new URL(`https://${endpoint}`);
    name = hostname;
    token = authToken['X-aws-proxy-auth'] ?? '';
    assert.equal(await ask(port), 200);
    await sdk.microvms.terminateMicrovm({ microvmIdentifier: microvmId });
    await until(async () => (await sdk.microvms.getMicrovm({ microvmIdentifier: microvmId })).state === 'TERMINATED');
    assert.equal(await ask(port), 502);
  }
  await using server = await serve();
  // Where the listener is now, another microVM's address says.
  using sdk = clients(server, home.dir);
  const { items = [] } = await sdk.microvms.listMicrovms({});
  const { microvmId: other = '' } = await sdk.microvms.runMicrovm({ imageIdentifier: items[0]?.imageArn ?? '' });
  const { endpoint = '' } = await sdk.microvms.getMicrovm({ microvmIdentifier: other });
  const { port } = new URL(`https://${endpoint}`);
  assert.equal(await ask(port), 502);
  token = token.replace(/\.(.)([^.]+)$/, (_, first, rest) => `.${first === 'A' ? 'B' : 'A'}${rest}`);
  assert.equal(await ask(port), 403);
});

test('a folder of another Region or account is not served under a new one', async () => {
  await using home = await folder();
  await (await start(home.dir)).stop();
  await assert.rejects(start(home.dir, createFakeEngine(), { region: 'eu-west-1' }), /belongs to Region us-east-1/);
});

test('a start that fails half way holds nothing', async () => {
  await using home = await folder();
  const config = loadConfig({ apiPort: '0', state: home.dir }, {});
  const openEngine = () => Promise.reject(new DomainError('CONFLICT', 'no engine today'));
  await assert.rejects(startServer(config, { log: silentLogger, openEngine }), /no engine today/);
  await using server = await start(home.dir);
  assert.ok(server.apiUrl);
});

/** A microVM of an image of its own. */
async function runningMicrovm(server: Server, stateDir: string): Promise<string> {
  using sdk = clients(server, stateDir);
  const { artifactBucket, baseImageArn, buildRoleArn } = provisionsOf(server.record);
  await sdk.s3.send(new PutObjectCommand({ Bucket: artifactBucket, Key: 'a.zip', Body: await dockerfileZip() }));
  const { imageArn } = await sdk.microvms.createMicrovmImage({
    name: 'app',
    baseImageArn,
    buildRoleArn,
    codeArtifact: { uri: `s3://${artifactBucket}/a.zip` },
  });
  await until(async () => (await sdk.microvms.getMicrovmImage({ imageIdentifier: imageArn })).state === 'CREATED');
  const { microvmId = '' } = await sdk.microvms.runMicrovm({ imageIdentifier: imageArn });
  await until(async () => (await sdk.microvms.getMicrovm({ microvmIdentifier: microvmId })).state === 'RUNNING');
  return microvmId;
}

async function dockerfileZip(): Promise<Buffer> {
  const { ZipFile } = await import('yazl');
  const { buffer } = await import('node:stream/consumers');
  const zip = new ZipFile();
  zip.addBuffer(Buffer.from('FROM scratch\n'), 'Dockerfile');
  zip.end();
  return buffer(zip.outputStream);
}

/** Asks again each time the event loop turns; the test's own timeout bounds it. */
async function until(isTrue: () => Promise<boolean>): Promise<void> {
  while (!(await isTrue())) await new Promise(setImmediate);
}
