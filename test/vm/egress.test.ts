/**
 * What a guest reaches, seen from inside a real one. The whole engine runs in a network namespace whose only neighbours are
 * two others, standing for the internet and for a private network (test/support/network.ts).
 */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { loadConfig } from '../../src/config.ts';
import type { Egress, EgressPolicy, FlowRecord } from '../../src/engine/index.ts';
import { findRuntime } from '../../src/engine/load-runtime.ts';
import { ADDRESSES, createTestNetwork, networkSkip, type TestNetwork } from '../support/network.ts';
import { openRemoteEngine, type RemoteEngine } from '../support/remote-engine.ts';

const { cacheDir } = loadConfig({}, process.env);
const skip = findRuntime(cacheDir)?.gateway === undefined ? 'set-up has not run: no gateway' : networkSkip();

/** The log is written a moment after the flow. */
const RECORD_TIMEOUT_MS = 20_000;

const { internet, internetToo, private: inner, host, hostPrivate, metadata } = ADDRESSES;
const labels = { principal: 'arn:aws:iam::000000000000:user/test', imageArn: 'arn:test', imageVersion: '1.0' };
const given = (policy: EgressPolicy): Egress => ({ policy, labels });
const INTERNET = given({
  rules: [{ id: 'inet', kind: 'internet', protocols: ['tcp', 'udp', 'icmp'], ports: [[1, 65_535]] }],
  dns: 'open',
});
const NOTHING = given({ rules: [], dns: 'off' });

/** Defined once in each guest; `probe` gives the outcome and never takes longer than its limit. */
const TOOLS = `
import errno, http.client, os, socket, ssl, time
socket.setdefaulttimeout(10)
def outcome(work):
    began = time.monotonic()
    try: said = work()
    except socket.gaierror as error: said = 'no name'
    except OSError as error: said = errno.errorcode.get(error.errno, str(error))
    print(said if time.monotonic() - began < 5 else 'late ' + str(said))
def connect(host, port):
    with socket.create_connection((host, port)): return 'connected'
def get(host, port=80, name=None):
    connection = http.client.HTTPConnection(host, port)
    connection.request('GET', '/', headers={'host': name or host})
    return connection.getresponse().read().decode().strip()
def tls(host, name):
    context = ssl._create_unverified_context()
    with socket.create_connection((host, 443)) as raw, context.wrap_socket(raw, server_hostname=name) as s:
        s.sendall(('GET / HTTP/1.1\\r\\nhost: %s\\r\\nconnection: close\\r\\n\\r\\n' % name).encode())
        return s.recv(1000).decode().splitlines()[0]
def udp(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((host, port))
        s.send(b'ping')
        return s.recv(100).decode()
`;

describe('the egress of real machines', { skip }, () => {
  let root: string;
  let network: TestNetwork;
  let engine: RemoteEngine;
  let started = 0;

  before(async () => {
    root = await mkdtemp(path.join(tmpdir(), 'rk-egress-'));
    network = await createTestNetwork();
    // Deeper than a unix socket's path may be long.
    const stateDir = path.join(root, 'state'.repeat(20), 'deep'.repeat(20));
    engine = await openRemoteEngine(network.host, { stateDir, network: { upstreams: [`${internet}:53`] } });
    await engine.seal('default', INTERNET);
  });
  after(async () => {
    await engine?.[Symbol.asyncDispose]();
    await network?.[Symbol.asyncDispose]();
    if (root !== undefined) await rm(root, { recursive: true, force: true });
  });
  const ids: string[] = [];
  afterEach(async () => {
    for (const id of ids.splice(0)) await engine.end(id);
  });

  async function launch(egress: Egress | null): Promise<string> {
    const id = `vm-${++started}`;
    ids.push(id);
    await engine.launch(id, egress);
    await engine.python(id, TOOLS);
    return id;
  }

  /** What a call of one of the tools comes to. */
  async function outcome(id: string, call: string): Promise<string> {
    return (await engine.python(id, `outcome(lambda: ${call})`)).trim();
  }

  async function flowsOf(id: string, isThere: (record: FlowRecord) => boolean): Promise<FlowRecord[]> {
    const limit = AbortSignal.timeout(RECORD_TIMEOUT_MS);
    for (;;) {
      const records = await engine.flows(id);
      if (records.some(isThere)) return records;
      limit.throwIfAborted();
    }
  }

  test('internet: public hosts by name and by address, by TCP, TLS and UDP', async () => {
    const id = await launch(INTERNET);
    assert.equal(await outcome(id, `get('www.example.com')`), `internet www.example.com ${host}`);
    assert.equal(await outcome(id, `get('${internetToo}', 8080)`), `internet ${internetToo} ${host}`);
    assert.equal(await outcome(id, `tls('www.example.com', 'www.example.com')`), 'HTTP/1.1 200 OK');
    assert.equal(await outcome(id, `udp('${internet}', 7000)`), 'ping');
    assert.equal(await outcome(id, `connect('nowhere.example.com', 80)`), 'no name');
  });

  test('internet: nothing private, nothing of the host, no metadata, and the refusal comes at once', async () => {
    const id = await launch(INTERNET);
    for (const address of [inner, host, hostPrivate, '192.0.0.1', '10.255.0.1', '192.168.1.1', '100.64.0.1']) {
      assert.equal(await outcome(id, `connect('${address}', 80)`), 'ECONNREFUSED', address);
    }
    // The host's loopback is not to be had at all: that is the guest's own.
    assert.equal(await outcome(id, `connect('127.0.0.1', 80)`), 'ECONNREFUSED');
    assert.doesNotMatch(await outcome(id, `get('${metadata}')`), /internet/);
    for (const name of ['rebind.example.com', 'host.example.com', 'metadata.example.com']) {
      assert.notEqual(await outcome(id, `connect('${name}', 80)`), 'connected', name);
    }
    assert.equal(await outcome(id, `udp('${inner}', 7000)`), 'EHOSTUNREACH');
    assert.equal(await outcome(id, `udp('${hostPrivate}', 7000)`), 'EHOSTUNREACH');
  });

  test('a port nobody listens on is refused as by its host', async () => {
    const id = await launch(INTERNET);
    assert.equal(await outcome(id, `connect('${internet}', 81)`), 'ECONNREFUSED');
  });

  test('CIDR: the named network and port, and no other', async () => {
    const cidr = { id: 'priv', kind: 'cidr', cidr: '10.9.0.0/24', protocols: ['tcp'], ports: [[80, 80]] } as const;
    const id = await launch(given({ rules: [cidr], dns: 'off' }));
    assert.equal(await outcome(id, `get('${inner}')`), `private ${inner} ${hostPrivate}`);
    assert.equal(await outcome(id, `connect('${inner}', 8080)`), 'ECONNREFUSED');
    assert.equal(await outcome(id, `udp('${inner}', 7000)`), 'EHOSTUNREACH');
    assert.equal(await outcome(id, `connect('${hostPrivate}', 80)`), 'ECONNREFUSED', 'a host address stays refused');
    assert.equal(await outcome(id, `connect('${internet}', 80)`), 'ECONNREFUSED');
    assert.equal(await outcome(id, `connect('www.example.com', 80)`), 'no name');
  });

  test('domains: the listed name by its own address, shown in TLS and HTTP, and no other', async () => {
    const rule = {
      id: 'www',
      kind: 'domain',
      name: 'www.example.com',
      ports: [[80, 443]],
      content: 'tls-or-http',
    } as const;
    const id = await launch(given({ rules: [rule], dns: 'listed' }));
    assert.equal(await outcome(id, `connect('${internet}', 80)`), 'ECONNREFUSED', 'not before it was resolved');
    assert.equal(await outcome(id, `get('www.example.com')`), `internet www.example.com ${host}`);
    assert.equal(await outcome(id, `tls('www.example.com', 'www.example.com')`), 'HTTP/1.1 200 OK');
    assert.equal(await outcome(id, `connect('other.example.com', 80)`), 'no name');
    assert.equal(await outcome(id, `connect('${internetToo}', 80)`), 'ECONNREFUSED');
    assert.notEqual(await outcome(id, `tls('www.example.com', 'other.example.com')`), 'HTTP/1.1 200 OK');
    assert.doesNotMatch(await outcome(id, `get('www.example.com', 80, 'other.example.com')`), /internet/);
  });

  for (const [what, egress] of [
    ['no egress', null],
    ['a policy that allows nothing', NOTHING],
  ] as const) {
    test(`${what}: the link is down, though the snapshot had it up, and a connect fails at once`, async () => {
      const id = await launch(egress);
      assert.equal(await engine.python(id, `print(open('/sys/class/net/eth0/carrier').read())`), '0\n\n');
      assert.equal(await outcome(id, `connect('${internet}', 80)`), 'ENETUNREACH');
      assert.equal(await outcome(id, `connect('www.example.com', 80)`), 'no name');
    });
  }

  test('the policy of a live machine changes: flows it refuses are cut, the link follows', async () => {
    const id = await launch(NOTHING);
    await engine.setEgress(id, INTERNET);
    assert.equal(await outcome(id, `get('www.example.com')`), `internet www.example.com ${host}`);
    await engine.python(id, `s = socket.create_connection(('${internet}', 9000)); s.recv(6)`);
    await engine.setEgress(id, NOTHING);
    // The kernel tells its routes of a link that went down again within the second when that is over.
    await engine.python(id, `while open('/sys/class/net/eth0/operstate').read() != 'down\\n': time.sleep(0.01)`);
    assert.equal(await outcome(id, `connect('${internet}', 80)`), 'ENETUNREACH');
    await engine.setEgress(id, INTERNET);
    assert.equal(await outcome(id, `s.send(b'x') and s.recv(1)`), 'ECONNRESET');
  });

  test('connections are cut by suspend and resume, and new ones can be made at once', async () => {
    const id = await launch(INTERNET);
    await engine.python(id, `s = socket.create_connection(('${internet}', 9000)); s.recv(6)`);
    await engine.suspend(id);
    await engine.resume(id, INTERNET);
    assert.equal(await outcome(id, `s.recv(1)`), 'ECONNABORTED');
    assert.equal(await outcome(id, `get('www.example.com')`), `internet www.example.com ${host}`);
    await engine.suspend(id);
    await engine.resume(id, NOTHING);
    assert.equal(await outcome(id, `connect('${internet}', 80)`), 'ENETUNREACH');
  });

  test('a gateway that is killed comes back, and guests go on', async () => {
    const id = await launch(INTERNET);
    assert.equal(await outcome(id, `connect('${internet}', 80)`), 'connected');
    const before = await gatewayPid();
    process.kill(before, 'SIGKILL');
    // The guest knows nothing of it; a SYN that meets nobody is sent again by its kernel.
    assert.equal(await outcome(id, `get('${internet}')`), `internet ${internet} ${host}`);
    assert.equal(await outcome(id, `get('www.example.com')`), `internet www.example.com ${host}`);
    assert.notEqual(await gatewayPid(), before);
    const other = await launch(INTERNET);
    assert.equal(await outcome(other, `connect('${internet}', 80)`), 'connected');
  });

  test('a build reaches what it may and no more, in ADD and in RUN', async () => {
    const script = [
      'import socket',
      'def t(host):',
      '    try: socket.create_connection((host, 80), 5); print(host, "connected")',
      '    except OSError as error: print(host, error.strerror)',
      `for host in ("other.example.com", "${inner}", "${hostPrivate}"): t(host)`,
    ];
    const lines = ['FROM debian:trixie', 'ADD http://www.example.com/bytes/1000 /added', 'RUN wc -c /added'];
    const log = await engine.build(
      [...lines, `COPY <<EOF /t.py\n${script.join('\n')}\nEOF`, 'RUN python3 /t.py'].join('\n'),
      INTERNET,
    );
    assert.match(log, /1000 \/added/, log);
    assert.match(log, /other\.example\.com connected/, log);
    assert.match(log, new RegExp(`${inner} Connection refused`), log);
    assert.match(log, new RegExp(`${hostPrivate} Connection refused`), log);
    const refused = await engine.build(`FROM debian:trixie\nADD http://${inner}/bytes/10 /added\n`, INTERNET);
    assert.match(refused, /connection refused[\s\S]*the Dockerfile could not be built/, refused);
  });

  test('every attempt is on record with who is answerable for it', async () => {
    const id = await launch(INTERNET);
    await outcome(id, `get('www.example.com')`);
    await outcome(id, `connect('${inner}', 80)`);
    const isRefused = (record: FlowRecord) => record.kind === 'flow' && record.verdict === 'refused';
    const records = await flowsOf(id, isRefused);
    for (const record of records) assert.deepEqual(pick(record), { guest: id, ...labels });
    const query = records.find((record) => record.kind === 'dns' && record.type === 'A');
    assert.ok(query?.kind === 'dns' && query.name === 'www.example.com' && query.answers.includes(internet));
    const refused = records.find(isRefused);
    assert.ok(refused?.kind === 'flow' && refused.to === `${inner}:80` && refused.rule === null);
    const all = await flowsOf(id, (record) => record.kind === 'flow' && record.verdict === 'allowed');
    const allowed = all.find((record) => record.kind === 'flow' && record.verdict === 'allowed');
    assert.ok(allowed?.kind === 'flow' && allowed.to === `${internet}:80` && allowed.rule === 'inet');
    assert.ok(allowed.bytesIn > 0 && allowed.bytesOut > 0);
  });

  test('the gateway is nobody: no root, no capabilities, no new privileges, none of the server’s environment', async () => {
    const pid = await gatewayPid();
    const status = await readFile(`/proc/${pid}/status`, 'utf8');
    assert.match(status, /^Uid:\t(\d{10})\t\1\t\1\t\1$/m);
    assert.match(status, /^CapEff:\t0+$/m);
    assert.match(status, /^CapBnd:\t0+$/m);
    assert.match(status, /^NoNewPrivs:\t1$/m);
    const environment = await readFile(`/proc/${pid}/environ`, 'utf8');
    assert.deepEqual(
      environment.split('\0').filter((line) => !/^(LD_LIBRARY_PATH|PWD)=|^$/.test(line)),
      [],
    );
  });

  async function gatewayPid(): Promise<number> {
    const stateDir = path.join(root, 'state'.repeat(20), 'deep'.repeat(20));
    const limit = AbortSignal.timeout(RECORD_TIMEOUT_MS);
    for (;;) {
      limit.throwIfAborted();
      const { pid } = JSON.parse(await readFile(path.join(stateDir, 'gateway.json'), 'utf8')) as { pid: number };
      if (await readFile(`/proc/${pid}/status`).catch(() => undefined)) return pid;
    }
  }
});

function pick({ guest, principal, imageArn, imageVersion }: FlowRecord) {
  return { guest, principal, imageArn, imageVersion };
}
