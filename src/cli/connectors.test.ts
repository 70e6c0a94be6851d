import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createFakeEngine, type FlowRecord } from '../engine/index.ts';
import { startFakeServer } from './test-server.ts';

interface Ended {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

function rekindle(args: readonly string[]): Promise<Ended> {
  const main = join(import.meta.dirname, 'main.ts');
  const { PATH = '', HOME = '' } = process.env;
  return new Promise((resolve) => {
    execFile(process.execPath, [main, ...args], { env: { PATH, HOME } }, (error, stdout, stderr) => {
      resolve({ exitCode: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
    });
  });
}

const example = join(import.meta.dirname, '../../examples/counter');

test('connectors are made, narrowed to domains, used and removed; flows tell what became of it', {
  timeout: 120_000,
}, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'rk-networks-'));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rm(folder, { recursive: true }));
  const networks = join(folder, 'networks.json');
  await writeFile(networks, JSON.stringify({ subnets: { 'subnet-1': { cidrs: ['10.1.0.0/16'] } } }));
  const engine = createFakeEngine();
  const home = stack.use(await startFakeServer(async () => engine, { networks, defaultEgress: 'deny' }));
  const run = (...args: string[]) => rekindle([...args, '--state', home.stateDir]);
  const ok = async (...args: string[]) => {
    const ended = await run(...args);
    assert.equal(ended.exitCode, 0, `${args.join(' ')}: ${ended.stderr}`);
    return ended.stdout;
  };

  assert.match(await ok('connectors', 'ls'), /No network connectors/);
  const office = (await ok('connectors', 'create', 'office', '--subnet', 'subnet-1')).trim();
  assert.match(office, /^arn:aws:lambda:us-east-1:000000000000:network-connector:nc-/);
  const failed = await run('connectors', 'create', 'wrong', '--subnet', 'subnet-9');
  assert.deepEqual([failed.exitCode, /subnet-9 is not in this server's networks file/.test(failed.stderr)], [1, true]);
  await ok('connectors', 'create', 'pypi');
  assert.match(await ok('connectors', 'ls'), /^wrong +FAILED [\s\S]*^office +ACTIVE /m);

  assert.match(await ok('connectors', 'domains', 'pypi'), /no domain list/);
  await ok('connectors', 'domains', 'pypi', 'set', 'pypi.org', '*.pythonhosted.org', '--ports', '443,8000-8100');
  assert.match(await ok('connectors', 'domains', 'pypi'), /^pypi\.org +443,8000-8100 +tls-or-http$/m);
  assert.equal(JSON.parse(await ok('connectors', 'show', 'pypi')).domains.length, 2);
  assert.equal((await run('connectors', 'domains', 'pypi', 'set')).exitCode, 2);
  assert.equal((await run('connectors', 'domains', 'pypi', 'drop')).exitCode, 2);
  assert.match((await run('connectors', 'domains', 'pypi', 'set', '*.org')).stderr, /top-level domain/);

  await ok('images', 'build', example, '--egress', 'pypi', '--quiet');
  const quiet = (await ok('run', 'counter')).trim();
  const id = (await ok('run', 'counter', '--egress', 'office', '--egress', 'pypi')).trim();
  const kinds = (of: string) => engine.egress.get(of)?.policy.rules.map(({ kind }) => kind);
  assert.deepEqual(
    [kinds(quiet), kinds(id)],
    [
      ['domain', 'domain'],
      ['cidr', 'domain', 'domain'],
    ],
  );
  const refused = await run('run', 'counter', '--egress', 'INTERNET_EGRESS');
  assert.match(refused.stderr, /does not allow INTERNET_EGRESS/);

  engine.record(flowTo(id, 'a.example\u001b[2J'));
  assert.match(
    await ok('flows', id),
    /^2027-\S+ {2}refused {2}tcp {2}192\.0\.2\.7:443 \(a\.example\?\[2J\) {2}not-listed {2}/m,
  );
  assert.equal(await ok('flows', id, '--dns'), '');
  assert.equal(JSON.parse(await ok('flows', id, '--refused', '--json')).to, '192.0.2.7:443');

  assert.match(await ok('connectors', 'rm', 'wrong'), /wrong is DELETING/);
});

function flowTo(guest: string, name: string): FlowRecord {
  return {
    at: '2027-01-01T00:00:00.000Z',
    guest,
    principal: 'arn:aws:iam::000000000000:root',
    imageArn: 'arn',
    imageVersion: '1.0',
    kind: 'flow',
    protocol: 'tcp',
    to: '192.0.2.7:443',
    name,
    verdict: 'refused',
    rule: null,
    reason: 'not-listed',
    bytesOut: 0,
    bytesIn: 0,
    durationMs: 1,
  };
}
