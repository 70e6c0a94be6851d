/** What machines may reach, as the engine is told it: at launch, at resume, and when connectors change under live ones. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { managedConnectorArn } from '../connectors/index.ts';
import type { Egress, FlowRecord } from '../engine/index.ts';
import { MachineError } from '../lib/index.ts';
import { type Bench, bench, IMAGE } from './test-bench.ts';

const ANN = 'arn:aws:iam::000000000000:user/ann';

async function connector(b: Bench): Promise<string> {
  const { Arn } = await b.connectors.create({
    Name: 'office',
    Configuration: {
      VpcEgressConfiguration: {
        SubnetIds: ['subnet-1'],
        NetworkProtocol: 'IPv4',
        AssociatedComputeResourceTypes: ['MicroVm'],
      },
    },
    OperatorRole: 'arn:aws:iam::000000000000:role/operator',
    ClientToken: 't',
  });
  await b.clock.advance(1000);
  return Arn;
}

const kindsOf = (egress: Egress | undefined) => egress?.policy.rules.map(({ kind }) => kind);

async function until(b: Bench, done: () => boolean): Promise<void> {
  for (let i = 0; i < 200 && !done(); i++) await b.clock.advance(0);
  assert.ok(done());
}

test("a machine is launched with its connectors' policy and labels that name who answers for it", async () => {
  await using b = await bench();
  const id = await b.run({ principal: ANN });
  await b.until(id, 'RUNNING');
  assert.deepEqual(b.engine.egress.get(id), {
    policy: { rules: [{ id: 'INTERNET_EGRESS', kind: 'internet', protocols: ['tcp'] }], dns: 'open' },
    limits: {},
    labels: { principal: ANN, imageArn: IMAGE, imageVersion: '1.0' },
  });
  const nobody = await b.run();
  await b.until(nobody, 'RUNNING');
  assert.equal(b.engine.egress.get(nobody)?.labels.principal, 'unknown');
});

test('who repeats a call with a client token gets the same microVM, whoever it was', async () => {
  await using b = await bench();
  const id = await b.run({ principal: ANN, clientToken: 'once' });
  assert.equal(await b.run({ principal: `${ANN}e`, clientToken: 'once' }), id);
});

test('a live machine follows its connectors, and no other is touched', async () => {
  await using b = await bench();
  const arn = await connector(b);
  const id = await b.run({ egressNetworkConnectors: [arn] });
  const other = await b.run();
  await b.until(id, 'RUNNING');
  await b.until(other, 'RUNNING');
  assert.deepEqual(kindsOf(b.engine.egress.get(id)), ['cidr']);
  await b.connectors.setDomains(arn, [{ name: 'example.com' }]);
  await until(b, () => kindsOf(b.engine.egress.get(id))?.[0] === 'domain');
  assert.deepEqual(
    b.engine.calls.filter((call) => call.startsWith('setEgress')),
    [`setEgress ${id}`],
  );
});

test('a suspended machine is left alone, and resumes with what its connectors say then', async () => {
  await using b = await bench();
  const arn = await connector(b);
  const id = await b.run({ egressNetworkConnectors: [arn] });
  await b.until(id, 'RUNNING');
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  await b.connectors.setDomains(arn, [{ name: 'example.com' }]);
  await b.clock.advance(0);
  assert.deepEqual(kindsOf(b.engine.egress.get(id)), ['cidr']);
  await b.microvms.resume(id);
  await b.until(id, 'RUNNING');
  assert.deepEqual(kindsOf(b.engine.egress.get(id)), ['domain']);
});

test('a change that comes while a machine starts is told as soon as it is up', async () => {
  await using b = await bench();
  const arn = await connector(b);
  const held = b.engine.hold('launch');
  const id = await b.run({ egressNetworkConnectors: [arn] });
  await until(b, () => b.engine.calls.includes(`launch ${id}`));
  await b.connectors.setDomains(arn, [{ name: 'example.com' }]);
  await b.clock.advance(0);
  assert.ok(!b.engine.calls.includes(`setEgress ${id}`));
  held[Symbol.dispose]();
  await b.until(id, 'RUNNING');
  await until(b, () => kindsOf(b.engine.egress.get(id))?.[0] === 'domain');
});

test('a change the gateway could not be told is told again', async () => {
  await using b = await bench();
  const arn = await connector(b);
  const id = await b.run({ egressNetworkConnectors: [arn] });
  await b.until(id, 'RUNNING');
  b.engine.failNext('setEgress', new MachineError('failed', 'the gateway is starting again'));
  await b.connectors.setDomains(arn, [{ name: 'example.com' }]);
  await until(b, () => b.engine.calls.includes(`setEgress ${id}`));
  assert.deepEqual(kindsOf(b.engine.egress.get(id)), ['cidr']);
  await b.clock.advance(1000);
  await until(b, () => kindsOf(b.engine.egress.get(id))?.[0] === 'domain');
});

test('microVMs that have not ended use a connector, ended ones do not', async () => {
  await using b = await bench();
  const arn = await connector(b);
  const id = await b.run({ egressNetworkConnectors: [arn] });
  await b.run({ egressNetworkConnectors: [managedConnectorArn('us-east-1', 'INTERNET_EGRESS')] });
  await b.until(id, 'RUNNING');
  assert.equal(await b.microvms.usersOfConnector(arn), 1);
  await b.microvms.terminate(id);
  await b.until(id, 'TERMINATED');
  assert.equal(await b.microvms.usersOfConnector(arn), 0);
});

const flow = (guest: string, to: string): FlowRecord => ({
  at: '2027-01-01T00:00:00.000Z',
  guest,
  principal: ANN,
  imageArn: IMAGE,
  imageVersion: '1.0',
  kind: 'flow',
  protocol: 'tcp',
  to,
  name: null,
  verdict: 'allowed',
  rule: 'INTERNET_EGRESS',
  reason: null,
  bytesOut: 1,
  bytesIn: 2,
  durationMs: 3,
});

test('flows are read while the microVM runs and after it ended, and a follower ends with it', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  b.engine.record(flow(id, '192.0.2.1:443'));
  b.engine.record(flow('another', '192.0.2.2:443'));
  const seen: string[] = [];
  const followed = (async () => {
    for await (const record of b.microvms.flows(id, { follow: true }))
      seen.push(record.kind === 'flow' ? record.to : '');
  })();
  await until(b, () => seen.length === 1);
  await b.microvms.terminate(id);
  await b.until(id, 'TERMINATED');
  b.engine.record(flow(id, '192.0.2.3:443'));
  await until(b, () => seen.length === 2);
  await b.clock.advance(1000);
  await followed;
  const kept = await Array.fromAsync(b.microvms.flows(id, { follow: true }));
  assert.deepEqual([seen, kept.length], [['192.0.2.1:443', '192.0.2.3:443'], 2]);
  await assert.rejects(Array.fromAsync(b.microvms.flows('microvm-0', {})), { code: 'NOT_FOUND' });
});
