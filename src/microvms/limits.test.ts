/** What a launch may use: the account's memory, and network connectors that exist and are ACTIVE. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { managedConnectorArn } from '../connectors/index.ts';
import { type Bench, bench, IMAGE } from './test-bench.ts';

const FULL = {
  code: 'QUOTA',
  message: 'The base maximum allocated memory limit has been reached for this account.',
};

test('launches at once do not overrun the memory quota together, and an end makes room', async () => {
  await using b = await bench({ memoryQuotaMiB: 1100 });
  const settled = await Promise.allSettled([b.run(), b.run(), b.run(), b.run()]);
  const launched = settled.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
  assert.equal(launched.length, 2);
  assert.equal((await b.microvms.list({})).items.length, 2);
  await assert.rejects(b.run(), FULL);
  const [first = '', second = ''] = launched;
  await b.until(second, 'RUNNING');
  await b.microvms.suspend(second);
  await b.until(second, 'SUSPENDED');
  await assert.rejects(b.run(), FULL, 'what is suspended counts');
  await b.microvms.terminate(first);
  await b.until(first, 'TERMINATED');
  await b.run();
  await assert.rejects(b.run(), FULL);
});

test('what was suspended before a restart counts after it', async () => {
  await using before = await bench({ memoryQuotaMiB: 512 });
  const id = await before.run();
  await before.until(id, 'RUNNING');
  await before.microvms.suspend(id);
  await before.until(id, 'SUSPENDED');
  await using after = await before.restart();
  await assert.rejects(after.run(), FULL);
});

test('a refused launch keeps no memory', async () => {
  await using b = await bench({ memoryQuotaMiB: 512 });
  await assert.rejects(b.run({ egressNetworkConnectors: ['x'] }), { code: 'INVALID' });
  await b.run({ clientToken: 't' });
  await b.run({ clientToken: 't' });
});

async function connector(b: Bench): Promise<string> {
  const configuration = {
    SubnetIds: ['subnet-1'],
    NetworkProtocol: 'IPv4',
    AssociatedComputeResourceTypes: ['MicroVm'],
  } as const;
  const { Arn } = await b.connectors.create({
    Name: 'office',
    Configuration: { VpcEgressConfiguration: configuration },
    OperatorRole: 'arn:aws:iam::000000000000:role/operator',
    ClientToken: 't',
  });
  return Arn;
}

test("a launch takes a customer's connector once it is ACTIVE, and shows it", async () => {
  await using b = await bench();
  const arn = await connector(b);
  const run = { imageIdentifier: IMAGE, egressNetworkConnectors: [arn] };
  await assert.rejects(b.microvms.run(run), { code: 'INVALID', message: /PENDING/ });
  await b.clock.advance(1000);
  assert.deepEqual((await b.microvms.run(run)).egressNetworkConnectors, [arn]);
  await b.connectors.delete(arn);
  await b.clock.advance(1000);
  await assert.rejects(b.microvms.run(run), { code: 'NOT_FOUND', message: `Network connector not found for: ${arn}` });
  assert.deepEqual(b.endpoints.filter((call) => call.startsWith('close')).length, 0, 'no address was opened in vain');
});

for (const [name, ports] of [
  ['HTTP_INGRESS', 'all'],
  ['ALL_INGRESS', 'all'],
  ['SHELL_INGRESS', []],
  ['NO_INGRESS', []],
] as const) {
  test(`a token for a microVM with ${name} opens ${ports === 'all' ? 'what was asked for' : 'no port'}`, async () => {
    await using b = await bench();
    const id = await b.run({ ingressNetworkConnectors: [managedConnectorArn('us-east-1', name)] });
    const token = await b.microvms.createAuthToken({
      microvmIdentifier: id,
      expirationInMinutes: 5,
      allowedPorts: [{ allPorts: {} }],
    });
    const check = await b.microvms.verifyToken(token);
    assert.ok(check.kind === 'valid');
    assert.deepEqual(check.claims.ports, ports);
  });
}
