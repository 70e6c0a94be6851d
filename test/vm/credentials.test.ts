/**
 * Role credentials on real machines: a stock client's way to them from inside the guest, and none of their bytes in anything
 * that becomes a file. The app reads them by a program that ends, as a shell script would; what a process keeps for itself is
 * its own affair (docs/CREDENTIALS.md).
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { serveTestSts, type TestSts } from '../../src/identity/roles/test-sts.ts';
import { type EndpointClient, endpointClient } from '../support/endpoint.ts';
import { buildImage, untilState } from '../support/images.ts';
import { run, startServer, type TestServer } from '../support/server.ts';

const ACCOUNT = '000000000000';
const EXECUTION = `arn:aws:iam::${ACCOUNT}:role/session`;
const NOT_TRUSTED = `arn:aws:iam::${ACCOUNT}:role/others`;
const PORT_80 =
  'import socket; s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(("0.0.0.0", 80)); s.listen(); print("bound")';
const POLL_MS = 100;
const PATIENCE_MS = 60_000;

/** Prints a line of JSON and ends: what the role's document says, secrets only as a digest, or the status it got instead. */
const FETCH = `
import hashlib, json, urllib.error, urllib.request
base = 'http://169.254.169.254/latest/'
def call(path, method='GET', headers={}):
    return urllib.request.urlopen(urllib.request.Request(base + path, method=method, headers=headers), timeout=10).read().decode()
try:
    token = call('api/token', 'PUT', {'X-aws-ec2-metadata-token-ttl-seconds': '21600'})
    headers = {'X-aws-ec2-metadata-token': token}
    roles = 'meta-data/iam/security-credentials/'
    role = call(roles, headers=headers)
    document = json.loads(call(roles + role, headers=headers))
    digest = hashlib.sha256((document['SecretAccessKey'] + document['Token']).encode()).hexdigest()
    kept = {name: document[name] for name in ('Code', 'Type', 'AccessKeyId', 'Expiration')}
    print(json.dumps({'role': role, 'digest': digest, **kept}))
except urllib.error.HTTPError as error:
    print(json.dumps({'status': error.code}))
`;

/** Prints the status of each request of a list, made with curl. */
const STATUSES = `
import json, subprocess
B = 'http://169.254.169.254'
T = B + '/latest/api/token'
R = B + '/latest/meta-data/iam/security-credentials/'
ttl = ['-H', 'X-aws-ec2-metadata-token-ttl-seconds: 60']
def curl(*args):
    return subprocess.run(['curl', '-s', '-m', '10', *args], capture_output=True, text=True).stdout
token = ['-H', 'X-aws-ec2-metadata-token: ' + curl('-X', 'PUT', *ttl, T)]
cases = {
    'token without a lifetime': ['-X', 'PUT', T], 'too long a lifetime': ['-X', 'PUT', '-H', ttl[1] + '000', T],
    'forwarded': ['-X', 'PUT', *ttl, '-H', 'X-Forwarded-For: 192.0.2.1', T], 'no token': [R], 'bad token': ['-H', token[1] + 'x', R],
    'list': [*token, R], 'another role': [*token, R + 'admin'], 'another path': [*token, B + '/latest/meta-data/'], 'POST': ['-X', 'POST', *token, R],
}
print(json.dumps({name: curl('-o', '/dev/null', '-w', '%{http_code}', *args) for name, args in cases.items()}))
`;

const APP = `
import http.server, json, subprocess, sys
def program(text):
    return subprocess.run([sys.executable, '-c', text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
PROGRAMS = json.load(open('programs.json'))
at_build = program(PROGRAMS['fetch'])
marker = 'marker-' + '-'.join(['kept', 'in', 'memory'])
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        body = (at_build if self.path == '/at-build' else program(PROGRAMS[self.path[1:]])).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
print('up', flush=True)
http.server.ThreadingHTTPServer(('127.0.0.1', 8080), Handler).serve_forever()
`;

interface Fetched {
  readonly status?: number;
  readonly role?: string;
  readonly digest?: string;
  readonly AccessKeyId?: string;
  readonly Expiration?: string;
}

function digestOf(secret: string, token: string): string {
  return createHash('sha256')
    .update(secret + token)
    .digest('hex');
}

/** Which of the texts are in any file below the folder; holes of files are skipped, disks are mostly holes. */
async function findBelow(dir: string, texts: readonly string[]): Promise<string[]> {
  const longest = Math.max(...texts.map((text) => text.length));
  const found = new Set<string>();
  const tar = spawn('tar', ['--sparse', '-C', dir, '-cf', '-', '.'], { stdio: ['ignore', 'pipe', 'ignore'] });
  const ended = once(tar, 'close');
  let tail = Buffer.alloc(0);
  for await (const chunk of tar.stdout as AsyncIterable<Buffer>) {
    const bytes = Buffer.concat([tail, chunk]);
    for (const text of texts) if (bytes.includes(text)) found.add(text);
    tail = Buffer.from(bytes.subarray(Math.max(0, bytes.length - longest)));
  }
  const [code] = await ended;
  // 1: a file changed while it was read, as those of a running server do.
  assert.ok(code === 0 || code === 1, `tar ended with ${code}`);
  return [...found].map((text) => `${text.slice(0, 12)}…`);
}

/** Which of the texts are in the command line or environment of any process but this one, as `pid file`. */
function findInProcesses(texts: readonly string[]): string[] {
  const hits: string[] = [];
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name) && name !== String(process.pid))) {
    for (const file of ['cmdline', 'environ']) {
      let bytes: Buffer;
      try {
        bytes = readFileSync(`/proc/${pid}/${file}`);
      } catch {
        continue;
      }
      if (texts.some((text) => bytes.includes(text))) hits.push(`${pid} ${file}`);
    }
  }
  return hits;
}

describe('role credentials', () => {
  let server: TestServer;
  let sts: TestSts;
  let dir: string;
  let imageArn: string;
  /** Everything that must not be found. */
  const secrets: string[] = [];
  const refusals: string[] = [];
  const nonce = randomBytes(12).toString('hex');
  const buildKeys = {
    AccessKeyId: 'ASIABUILD',
    SecretAccessKey: `build-secret-${nonce}`,
    SessionToken: `build-token-${nonce}`,
  };

  const rolesFile = () => join(dir, 'roles.json');
  async function replace(file: string, content: object): Promise<void> {
    await writeFile(`${file}.new`, JSON.stringify(content), { mode: 0o600 });
    await rename(`${file}.new`, file);
  }
  async function writeRoles(source: object): Promise<void> {
    const build = { source: { kind: 'file', path: 'build.json' } };
    const others = { source, trust: [{ principals: [`arn:aws:iam::${ACCOUNT}:user/others`] }] };
    await replace(rolesFile(), { roles: { [BUILD]: build, [EXECUTION]: { source }, [NOT_TRUSTED]: others } });
  }
  const BUILD = `arn:aws:iam::${ACCOUNT}:role/rekindle-build`;
  const callerSecret = `caller-secret-${nonce}`;
  const assumed = () => ({
    kind: 'assume-role',
    endpoint: sts.endpoint,
    region: 'us-east-1',
    caller: { kind: 'static', accessKeyId: 'AKIACALLER', secretAccessKey: callerSecret },
  });

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'rk-credentials-'));
    sts = await serveTestSts({ nonce });
    secrets.push(
      callerSecret,
      buildKeys.SecretAccessKey,
      buildKeys.SessionToken,
      `sts-secret-${nonce}`,
      `sts-token-${nonce}`,
    );
    await replace(join(dir, 'build.json'), buildKeys);
    await writeRoles(assumed());
    server = await startServer({ args: ['--roles', rolesFile(), '--log-level', 'debug'] });
    assert.equal(server.env.REKINDLE_BUILD_ROLE_ARN, BUILD);
    const programs = { fetch: FETCH, statuses: STATUSES, 'port-80': PORT_80 };
    const image = await buildImage(server, 'credentials', {
      Dockerfile: [
        'FROM public.ecr.aws/lambda/microvms:al2023-minimal',
        'WORKDIR /app',
        'COPY app.py programs.json ./',
        'EXPOSE 8080',
        'CMD ["python3", "-u", "app.py"]',
        '',
      ].join('\n'),
      'app.py': APP,
      'programs.json': JSON.stringify(programs),
    });
    assert.equal(image.state, 'CREATED', `${image.stateReason}\n${server.log()}`);
    imageArn = image.imageArn;
  });
  after(async () => {
    await server?.[Symbol.asyncDispose]();
    await sts?.[Symbol.asyncDispose]();
    if (dir !== undefined) await rm(dir, { recursive: true, force: true });
  });

  interface Launched extends AsyncDisposable {
    readonly id: string;
    readonly client: EndpointClient;
    fetch(): Promise<Fetched>;
    until(what: string, holds: (fetched: Fetched) => boolean): Promise<Fetched>;
  }

  async function launch(executionRoleArn?: string): Promise<Launched> {
    const { microvmId = '', endpoint = '' } = await server.microvms.runMicrovm({
      imageIdentifier: imageArn,
      ...(executionRoleArn && { executionRoleArn }),
    });
    await untilState(server, microvmId, 'RUNNING');
    const client = await endpointClient(server, { microvmId, endpoint });
    const fetch = async () => {
      const { body } = await client.get('/fetch');
      return JSON.parse(body) as Fetched;
    };
    return {
      id: microvmId,
      client,
      fetch,
      until: async (what, holds) => {
        const deadline = performance.now() + PATIENCE_MS;
        for (;;) {
          const fetched = await fetch();
          if (holds(fetched)) return fetched;
          assert.ok(performance.now() < deadline, `${what}: it is still ${JSON.stringify(fetched)}`);
          await delay(POLL_MS);
        }
      },
      [Symbol.asyncDispose]: async () => {
        client[Symbol.dispose]();
        await server.microvms.terminateMicrovm({ microvmIdentifier: microvmId });
      },
    };
  }

  /** Those the STS gave at its nth request. */
  function stsDigest(n: number): string {
    return digestOf(`sts-secret-${nonce}-${n}`, `sts-token-${nonce}-${n}`);
  }

  async function refusalOf(work: Promise<unknown>): Promise<string> {
    const error = await work.then(
      () => assert.fail('it was accepted'),
      (reason: Error) => reason,
    );
    refusals.push(`${error.name}: ${error.message} ${JSON.stringify(error)}`);
    return error.name;
  }

  test('the app of a build has the build role, and nothing of it is in the image', async () => {
    await using microvm = await launch();
    const atBuild = JSON.parse((await microvm.client.get('/at-build')).body) as Fetched;
    assert.equal(atBuild.digest, digestOf(buildKeys.SecretAccessKey, buildKeys.SessionToken));
    assert.equal(atBuild.role, 'execution_role');
    const images = join(server.stateDir, 'images');
    assert.notDeepEqual(await findBelow(images, ['marker-kept-in-memory']), [], 'what the app keeps can be found');
    assert.deepEqual(await findBelow(images, secrets), []);
  });

  test('without a role the metadata service lists none', async () => {
    await using microvm = await launch();
    assert.deepEqual(await microvm.fetch(), { status: 404 });
  });

  test('a stock client finds the execution role, in a session that names the microVM', async () => {
    await using microvm = await launch(EXECUTION);
    const fetched = await microvm.fetch();
    const n = sts.asked.findIndex(({ parameters }) => parameters.RoleSessionName === microvm.id) + 1;
    assert.deepEqual(
      [fetched.role, fetched.AccessKeyId, fetched.digest],
      ['execution_role', `ASIASTS${n}`, stsDigest(n)],
    );
    assert.ok(Date.parse(fetched.Expiration ?? '') > Date.now() + 45 * 60_000, String(fetched.Expiration));
  });

  test('the metadata service answers wrong requests as it should, and leaves port 80 to the app', async () => {
    await using microvm = await launch(EXECUTION);
    assert.deepEqual(JSON.parse((await microvm.client.get('/statuses')).body), {
      'token without a lifetime': '400',
      'too long a lifetime': '400',
      forwarded: '403',
      'no token': '401',
      'bad token': '401',
      list: '200',
      'another role': '404',
      'another path': '404',
      POST: '405',
    });
    assert.equal((await microvm.client.get('/port-80')).body.trim(), 'bound');
  });

  test('a revoked role is gone from a running guest, and back when it is restored', async () => {
    await using microvm = await launch(EXECUTION);
    const before = await microvm.fetch();
    await run('identity', 'role', 'revoke', EXECUTION, '--state', server.stateDir);
    await microvm.until('revoked', ({ status }) => status === 404);
    const launching = server.microvms.runMicrovm({ imageIdentifier: imageArn, executionRoleArn: EXECUTION });
    assert.equal(await refusalOf(launching), 'AccessDeniedException');
    await run('identity', 'role', 'restore', 'session', '--state', server.stateDir);
    const fresh = await microvm.until('restored', ({ digest }) => digest !== undefined);
    assert.notEqual(fresh.digest, before.digest);
  });

  test('rotated keys reach a running guest', async () => {
    await using microvm = await launch(EXECUTION);
    await microvm.fetch();
    const keys = {
      accessKeyId: 'AKIAROTATED',
      secretAccessKey: `rotated-secret-${nonce}`,
      sessionToken: `rotated-token-${nonce}`,
    };
    secrets.push(keys.secretAccessKey, keys.sessionToken);
    await writeRoles({ kind: 'static', ...keys });
    const rotated = await microvm.until('rotated', ({ AccessKeyId }) => AccessKeyId === 'AKIAROTATED');
    assert.equal(rotated.digest, digestOf(keys.secretAccessKey, keys.sessionToken));
    await writeRoles(assumed());
    await microvm.until('rotated back', ({ AccessKeyId }) => AccessKeyId?.startsWith('ASIASTS') === true);
  });

  test('a suspended microVM holds nothing of its role, and has it again when it was resumed', async () => {
    await using microvm = await launch(EXECUTION);
    for (let i = 0; i < 3; i++) assert.ok((await microvm.fetch()).digest !== undefined);
    await server.microvms.suspendMicrovm({ microvmIdentifier: microvm.id });
    await untilState(server, microvm.id, 'SUSPENDED');
    assert.deepEqual(await findBelow(join(server.stateDir, 'microvms', microvm.id), secrets), []);
    await server.microvms.resumeMicrovm({ microvmIdentifier: microvm.id });
    await untilState(server, microvm.id, 'RUNNING');
    assert.ok((await microvm.fetch()).digest !== undefined);
  });

  test('a role that its trust does not cover, or whose source gives nothing, makes no running microVM', async () => {
    const untrusted = server.microvms.runMicrovm({ imageIdentifier: imageArn, executionRoleArn: NOT_TRUSTED });
    assert.equal(await refusalOf(untrusted), 'AccessDeniedException');
    using _refusing = sts.answer((response) => {
      response.statusCode = 403;
      response.end(
        `<ErrorResponse><Error><Code>AccessDenied</Code><Message>${callerSecret}</Message></Error></ErrorResponse>`,
      );
    });
    const { microvmId = '' } = await server.microvms.runMicrovm({
      imageIdentifier: imageArn,
      executionRoleArn: EXECUTION,
    });
    await untilState(server, microvmId, 'TERMINATED');
    const { stateReason } = await server.microvms.getMicrovm({ microvmIdentifier: microvmId });
    assert.equal(stateReason, `The role ${EXECUTION} cannot be assumed.`);
  });

  test('no secret is in logs, refusals, process lists or anywhere in the state folder', async () => {
    await using microvm = await launch(EXECUTION);
    assert.ok((await microvm.fetch()).digest !== undefined);
    assert.deepEqual(findInProcesses(secrets), []);
    for (const secret of secrets) {
      assert.ok(!server.log().includes(secret), 'the log of the server holds a secret');
      assert.ok(!refusals.join('\n').includes(secret), 'a refusal holds a secret');
    }
    assert.deepEqual(await findBelow(server.stateDir, secrets), []);
  });
});
