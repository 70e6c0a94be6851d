import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { silentLogger, TestClock } from '../lib/index.ts';
import { openStore } from '../store/index.ts';
import {
  type Connectors,
  type CreateConnectorInput,
  createConnectors,
  managedConnectorArn,
  type NetworkPlan,
  type Networks,
  parseNetworks,
} from './index.ts';

const ROLE = 'arn:aws:iam::000000000000:role/operator';
const vpc = {
  SubnetIds: ['subnet-1'],
  SecurityGroupIds: ['sg-1'],
  NetworkProtocol: 'IPv4',
  AssociatedComputeResourceTypes: ['MicroVm'],
} as const;
const INPUT: CreateConnectorInput = {
  Name: 'office',
  Configuration: { VpcEgressConfiguration: vpc },
  OperatorRole: ROLE,
  ClientToken: 'token-1',
};
const other = { VpcEgressConfiguration: { ...vpc, SubnetIds: ['subnet-2'] } };

const NETWORKS = {
  subnets: {
    'subnet-1': { vpc: 'vpc-1', cidrs: ['10.1.0.0/16'] },
    'subnet-2': { vpc: 'vpc-1', cidrs: ['10.2.0.0/16'], internet: true },
    'subnet-3': { vpc: 'vpc-3', cidrs: ['10.3.0.0/16'] },
    'subnet-full': { capacity: 1 },
    'subnet-off': { unavailable: 'InsufficientRolePermissions' },
  },
  securityGroups: {
    'sg-1': { vpc: 'vpc-1', egress: [{ to: '10.0.0.0/8', protocol: 'tcp', ports: [443] }] },
    'sg-3': { vpc: 'vpc-3', egress: [] },
  },
};

/** Networks that change when the test says so. */
interface TestNetworks extends Networks {
  become(file: object): void;
}

function testNetworks(file: object = NETWORKS): TestNetworks {
  let plan: NetworkPlan = parseNetworks(JSON.stringify(file));
  const listeners = new Set<() => void>();
  return {
    current: () => plan,
    onChange: (listener) => {
      listeners.add(listener);
      return { [Symbol.dispose]: () => void listeners.delete(listener) };
    },
    become: (next) => {
      plan = parseNetworks(JSON.stringify(next));
      for (const listener of listeners) listener();
    },
    [Symbol.dispose]: () => {},
  };
}

interface Bench extends AsyncDisposable {
  readonly connectors: Connectors;
  readonly clock: TestClock;
  readonly networks: TestNetworks;
  restart(): Promise<Bench>;
}

interface Setup {
  readonly quota?: number;
  readonly stateDir?: string;
  readonly clock?: TestClock;
  readonly networks?: TestNetworks;
  readonly usersOf?: (arn: string) => Promise<number>;
}

async function bench(options: Setup = {}): Promise<Bench> {
  const networks = options.networks ?? testNetworks();
  const stateDir = options.stateDir ?? (await mkdtemp(path.join(tmpdir(), 'rk-connectors-')));
  const clock = options.clock ?? new TestClock();
  const store = await openStore(path.join(stateDir, 'store.sqlite'));
  const connectors = createConnectors({
    store,
    clock,
    region: 'us-east-1',
    accountId: '000000000000',
    log: silentLogger,
    settleMs: 1000,
    quota: options.quota,
    networks,
    ...(options.usersOf && { usersOf: options.usersOf }),
  });
  await connectors.start();
  const close = async () => {
    await connectors[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
  };
  return {
    connectors,
    clock,
    networks,
    restart: async () => {
      await close();
      return bench({ ...options, stateDir, clock, networks });
    },
    [Symbol.asyncDispose]: async () => {
      await close();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}

test('a connector becomes ACTIVE a while after its creation, with the members recorded for each', async () => {
  await using b = await bench();
  const created = await b.connectors.create(INPUT);
  assert.match(created.Id, /^nc-[0-9a-f-]{36}$/);
  assert.deepEqual(created, {
    Arn: `arn:aws:lambda:us-east-1:000000000000:network-connector:${created.Id}`,
    Id: created.Id,
    Name: 'office',
    State: 'PENDING',
    Configuration: INPUT.Configuration,
    OperatorRole: ROLE,
  });
  await b.clock.advance(999);
  assert.deepEqual(await b.connectors.get(created.Id), created);
  await b.clock.advance(1);
  const active = { ...created, State: 'ACTIVE', LastModified: b.clock.now(), StateReason: 'Initial creation' };
  for (const identifier of [created.Id, created.Arn, 'office']) {
    assert.deepEqual(await b.connectors.get(identifier), active);
  }
});

test('what the service enforces beyond its model is refused in its words and order', async () => {
  await using b = await bench();
  const bare = { VpcEgressConfiguration: {} };
  const { AssociatedComputeResourceTypes } = vpc;
  const typed = { VpcEgressConfiguration: { AssociatedComputeResourceTypes } };
  const { ClientToken: _token, ...tokenless } = INPUT;
  for (const [input, message] of [
    [{ ...tokenless, Configuration: bare }, 'ClientToken is a required field'],
    [{ ...INPUT, Configuration: bare }, 'AssociatedComputeResourceTypes is required for VPC_EGRESS connector type'],
    [{ ...INPUT, Configuration: typed }, 'NetworkProtocol cannot be null or empty'],
    [{ ...INPUT, OperatorRole: '' }, 'NetworkConnectorOperatorRole is required for VPC_EGRESS connector type'],
    [{ ...INPUT, Name: `${managedConnectorArn('us-east-1', 'HTTP_INGRESS')}` }, /must not be an ARN/],
  ] as const) {
    await assert.rejects(b.connectors.create(input), { code: 'INVALID', message });
  }
  assert.deepEqual((await b.connectors.list({})).items, []);
});

test('an unknown connector is not found by the ARN it would have', async () => {
  await using b = await bench();
  const message = 'Network connector not found for: arn:aws:lambda:us-east-1:000000000000:network-connector:nc-0';
  for (const identifier of ['nc-0', 'arn:aws:lambda:us-east-1:000000000000:network-connector:nc-0']) {
    await assert.rejects(b.connectors.get(identifier), { code: 'NOT_FOUND', message });
    await assert.rejects(b.connectors.delete(identifier), { code: 'NOT_FOUND', message });
  }
  await assert.rejects(b.connectors.get(managedConnectorArn('us-east-1', 'INTERNET_EGRESS')), { code: 'NOT_FOUND' });
});

test('a client token replays, names are unique, and the quota holds', async () => {
  await using b = await bench({ quota: 2 });
  const first = await b.connectors.create(INPUT);
  assert.deepEqual(await b.connectors.create(INPUT), first);
  await assert.rejects(b.connectors.create({ ...INPUT, Name: 'x' }), { code: 'CONFLICT', message: /ClientToken/ });
  await assert.rejects(b.connectors.create({ ...INPUT, ClientToken: 't' }), { code: 'CONFLICT', message: /'office'/ });
  await b.connectors.create({ ...INPUT, Name: 'second', ClientToken: 'token-2' });
  await assert.rejects(b.connectors.create({ ...INPUT, Name: 'third', ClientToken: 'token-3' }), { code: 'QUOTA' });
  assert.equal((await b.connectors.list({})).items.length, 2);
});

test('an update is in progress for a while, and one that changes nothing says so at once', async () => {
  await using b = await bench();
  const { Id } = await b.connectors.create(INPUT);
  await assert.rejects(b.connectors.update({ Identifier: Id, Configuration: other }), { code: 'CONFLICT' });
  await b.clock.advance(1000);
  const same = await b.connectors.update({ Identifier: Id, Configuration: INPUT.Configuration, ClientToken: 'u0' });
  assert.deepEqual(
    [same.State, same.LastUpdateStatus, same.LastUpdateStatusReason],
    ['ACTIVE', 'Successful', 'No configuration changes detected'],
  );
  const updating = await b.connectors.update({ Identifier: Id, Configuration: other, ClientToken: 'u1' });
  assert.deepEqual([updating.State, updating.LastUpdateStatus, updating.OperatorRole], ['ACTIVE', 'InProgress', ROLE]);
  assert.deepEqual(updating.Configuration, other);
  await assert.rejects(b.connectors.update({ Identifier: Id, Configuration: INPUT.Configuration }), {
    code: 'CONFLICT',
  });
  await b.clock.advance(1000);
  const updated = await b.connectors.update({ Identifier: Id, Configuration: other, ClientToken: 'u1' });
  assert.deepEqual([updated.LastUpdateStatus, updated.LastUpdateStatusReason], ['Successful', undefined]);
  const bare = { VpcEgressConfiguration: { SubnetIds: ['subnet-2'] } };
  await assert.rejects(b.connectors.update({ Identifier: Id, Configuration: bare }), { code: 'INVALID' });
});

test('a deleted connector shows DELETING, keeps its name, and is gone after a while, also over a restart', async () => {
  await using before = await bench();
  const { Id } = await before.connectors.create(INPUT);
  await before.clock.advance(1000);
  const deleting = await before.connectors.delete('office');
  assert.deepEqual([deleting.State, deleting.Configuration], ['DELETING', INPUT.Configuration]);
  assert.deepEqual(await before.connectors.delete(Id), deleting);
  await assert.rejects(before.connectors.create({ ...INPUT, ClientToken: 't' }), { code: 'CONFLICT' });
  await using after = await before.restart();
  await after.clock.advance(1000);
  await assert.rejects(after.connectors.get(Id), { code: 'NOT_FOUND' });
  assert.notEqual((await after.connectors.create(INPUT)).Id, Id);
});

test('the list filters by state, pages, and never shows more than fifty', async () => {
  await using b = await bench();
  for (let i = 0; i < 52; i++) {
    await b.connectors.create({ ...INPUT, Name: `c-${i}`, ClientToken: `t-${i}` });
    if (i === 1) await b.clock.advance(1000);
  }
  const active = await b.connectors.list({ state: 'ACTIVE', maxResults: 1 });
  assert.deepEqual([active.items[0]?.Type, active.items[0]?.State], ['VPC_EGRESS', 'ACTIVE']);
  const { nextToken } = active;
  assert.ok(nextToken !== null);
  const last = await b.connectors.list({ state: 'ACTIVE', maxResults: 1, nextToken });
  assert.deepEqual([last.items.length, last.nextToken], [1, null]);
  await assert.rejects(b.connectors.list({ state: 'PENDING', nextToken }), { code: 'INVALID' });
  assert.equal((await b.connectors.list({ maxResults: 100 })).items.length, 50);
});

test('only ACTIVE connectors can be used; managed ones always are', async () => {
  await using b = await bench();
  const managed = managedConnectorArn('us-east-1', 'INTERNET_EGRESS');
  const { Arn } = await b.connectors.create(INPUT);
  await assert.rejects(b.connectors.requireActive([managed, Arn]), { code: 'INVALID', message: /PENDING/ });
  await b.clock.advance(1000);
  await b.connectors.requireActive([managed, Arn]);
  await assert.rejects(b.connectors.requireActive([`${Arn}x`]), { code: 'NOT_FOUND' });
});

test('tags come with the creation and change afterwards', async () => {
  await using b = await bench();
  const { Arn } = await b.connectors.create({ ...INPUT, Tags: { team: 'a' } });
  await b.connectors.tag(Arn, { stage: 'x' });
  await b.connectors.untag(Arn, ['team']);
  assert.deepEqual(await b.connectors.tags(Arn), { stage: 'x' });
  await b.clock.advance(1000);
  assert.deepEqual(await b.connectors.tags(Arn), { stage: 'x' });
});

/** Waits for what a change of the networks sets off. */
const settle = (b: Bench) => b.clock.advance(0);
const make = async (b: Bench, change: object, name = 'made') => {
  const Configuration = { VpcEgressConfiguration: { ...vpc, ...change } };
  const { Id } = await b.connectors.create({ ...INPUT, Name: name, ClientToken: name, Configuration });
  await b.clock.advance(1000);
  return b.connectors.get(Id);
};

test('a connector on networks that are not there fails with the code that says what is missing', async () => {
  await using b = await bench();
  const codes: unknown[] = [];
  for (const change of [
    { SubnetIds: ['subnet-9'] },
    { SubnetIds: ['subnet-1', 'subnet-3'] },
    { SecurityGroupIds: ['sg-9'] },
    { SecurityGroupIds: ['sg-3'] },
    { SubnetIds: ['subnet-off'], SecurityGroupIds: [] },
  ]) {
    const { State, StateReasonCode, StateReason } = await make(b, change, `c${codes.length}`);
    assert.match(String(StateReason), /subnet-\w+|sg-\w+/);
    codes.push(`${State} ${StateReasonCode}`);
  }
  assert.deepEqual(codes, [
    'FAILED InvalidSubnet',
    'FAILED InvalidSubnet',
    'FAILED InvalidSecurityGroup',
    'FAILED InvalidSecurityGroup',
    'FAILED InsufficientRolePermissions',
  ]);
  await assert.rejects(b.connectors.update({ Identifier: 'c0', Configuration: other }), { code: 'CONFLICT' });
  assert.equal((await b.connectors.delete('c0')).State, 'DELETING');
});

test('a subnet takes as many connectors as it has addresses, and one more when one is gone', async () => {
  await using b = await bench();
  const full = { SubnetIds: ['subnet-full'], SecurityGroupIds: [] };
  assert.equal((await make(b, full, 'first')).State, 'ACTIVE');
  assert.equal((await make(b, full, 'second')).StateReasonCode, 'SubnetOutOfIPAddresses');
  await b.connectors.delete('first');
  await b.clock.advance(1000);
  assert.equal((await make(b, full, 'third')).State, 'ACTIVE');
});

test('a failed update leaves what was, in what is shown as in what is enforced', async () => {
  await using b = await bench();
  const { Arn, Configuration } = await make(b, {});
  const before = await b.connectors.egress([Arn]);
  const missing = { VpcEgressConfiguration: { ...vpc, SubnetIds: ['subnet-9'] } };
  const updating = await b.connectors.update({ Identifier: Arn, Configuration: missing });
  assert.deepEqual([updating.LastUpdateStatus, updating.Configuration], ['InProgress', missing]);
  assert.deepEqual(await b.connectors.egress([Arn]), before);
  await b.clock.advance(1000);
  const failed = await b.connectors.get(Arn);
  assert.deepEqual(
    [failed.State, failed.LastUpdateStatus, failed.LastUpdateStatusReasonCode, failed.Configuration],
    ['ACTIVE', 'Failed', 'InvalidSubnet', Configuration],
  );
  assert.deepEqual(await b.connectors.egress([Arn]), before);
});

test('an update takes effect when it settled, and says so', async () => {
  await using b = await bench();
  const { Arn } = await make(b, {});
  let changes = 0;
  using _listening = b.connectors.onEgressChange(() => changes++);
  await b.connectors.update({ Identifier: Arn, Configuration: other });
  const during = await b.connectors.egress([Arn]);
  assert.deepEqual(
    during.policy.rules.map((rule) => rule.kind === 'cidr' && rule.cidr),
    ['10.1.0.0/16'],
  );
  const seen = changes;
  await b.clock.advance(1000);
  assert.ok(changes > seen);
  const after = await b.connectors.egress([Arn]);
  assert.deepEqual(
    after.policy.rules.map((rule) => rule.kind === 'cidr' && rule.cidr),
    ['10.2.0.0/16'],
  );
});

test('a connector whose networks go is INACTIVE and allows nothing until they are back, also over a restart', async () => {
  await using b = await bench();
  const { Arn, Id } = await make(b, {});
  const { policy } = await b.connectors.egress([Arn]);
  b.networks.become({});
  await settle(b);
  const gone = await b.connectors.get(Id);
  assert.deepEqual([gone.State, gone.StateReasonCode], ['INACTIVE', 'InvalidSubnet']);
  assert.deepEqual((await b.connectors.egress([Arn])).policy, { rules: [], dns: 'off' });
  await assert.rejects(b.connectors.requireActive([Arn]), { code: 'INVALID', message: /INACTIVE/ });
  b.networks.become(NETWORKS);
  await settle(b);
  assert.equal((await b.connectors.get(Id)).State, 'ACTIVE');
  assert.deepEqual((await b.connectors.egress([Arn])).policy, policy);
  b.networks.become({});
  await using again = await b.restart();
  assert.equal((await again.connectors.get(Id)).State, 'INACTIVE');
});

test('a connector in use cannot be deleted and keeps its say; once nobody uses it, it can', async () => {
  let users = 2;
  await using b = await bench({ usersOf: async () => users });
  const { Arn, Id } = await make(b, {});
  const { policy } = await b.connectors.egress([Arn]);
  await b.connectors.delete(Id);
  assert.deepEqual((await b.connectors.egress([Arn])).policy, policy);
  await b.clock.advance(1000);
  const failed = await b.connectors.get(Id);
  assert.equal(failed.State, 'DELETE_FAILED');
  assert.match(String(failed.StateReason), /In use by 2 MicroVM/);
  assert.deepEqual((await b.connectors.egress([Arn])).policy, policy);
  users = 0;
  await b.connectors.delete(Id);
  await b.clock.advance(1000);
  await assert.rejects(b.connectors.get(Id), { code: 'NOT_FOUND' });
  assert.deepEqual((await b.connectors.egress([Arn])).policy, { rules: [], dns: 'off' });
});

test('a domain list narrows a connector at once, and survives its updates', async () => {
  await using b = await bench();
  const { Arn, Name } = await make(b, {});
  assert.deepEqual(await b.connectors.domains(Arn), { Arn, Name, domains: null });
  let changes = 0;
  using _listening = b.connectors.onEgressChange(() => changes++);
  const set = await b.connectors.setDomains('made', [{ name: '*.Example.com.', ports: [443, '8000-8100'] }]);
  assert.deepEqual(set.domains, [{ name: '*.example.com', ports: [443, '8000-8100'], content: 'tls-or-http' }]);
  assert.equal(changes, 1);
  const { policy } = await b.connectors.egress([Arn]);
  assert.equal(policy.dns, 'listed');
  assert.deepEqual(
    policy.rules.map(({ kind }) => kind),
    ['domain'],
  );
  await b.connectors.update({ Identifier: Arn, Configuration: other });
  await b.clock.advance(1000);
  assert.deepEqual(await b.connectors.domains(Arn), set);
  assert.equal((await b.connectors.setDomains(Arn, null)).domains, null);
  assert.equal((await b.connectors.egress([Arn])).policy.dns, 'open');
  await b.connectors.delete(Arn);
  await assert.rejects(b.connectors.setDomains(Arn, null), { code: 'CONFLICT' });
});

test('INTERNET_EGRESS leads to the internet over TCP, until the operator refuses it', async () => {
  await using b = await bench();
  const internet = managedConnectorArn('us-east-1', 'INTERNET_EGRESS');
  assert.deepEqual((await b.connectors.egress([internet])).policy, {
    rules: [{ id: 'INTERNET_EGRESS', kind: 'internet', protocols: ['tcp'] }],
    dns: 'open',
  });
  assert.deepEqual(b.connectors.egressDefaults(), { implicit: 'internet', internet: 'allow' });
  b.networks.become({ ...NETWORKS, defaultEgress: 'deny', limits: { connections: 9 } });
  assert.deepEqual(await b.connectors.egress([internet]), {
    policy: { rules: [], dns: 'off' },
    limits: { connections: 9 },
  });
  assert.deepEqual(b.connectors.egressDefaults(), { implicit: 'none', internet: 'refuse' });
  await assert.rejects(b.connectors.requireActive([internet]), { code: 'INVALID', message: /does not allow INTERNET/ });
});

test('several connectors allow together what each allows, and names stay listed only if all of them list', async () => {
  await using b = await bench();
  const names = await make(b, { SubnetIds: ['subnet-00000000'], SecurityGroupIds: [] }, 'names');
  await b.connectors.setDomains('names', [{ name: 'example.com' }]);
  const office = await make(b, {}, 'office');
  const nowhere = await make(b, { SubnetIds: ['subnet-00000000'], SecurityGroupIds: [] }, 'nowhere');
  const kinds = async (...arns: string[]) => {
    const { policy } = await b.connectors.egress(arns);
    return `${policy.rules.map(({ kind }) => kind).join(' ')} ${policy.dns}`;
  };
  assert.equal(await kinds(names.Arn), 'domain listed');
  assert.equal(await kinds(names.Arn, nowhere.Arn), 'domain listed');
  assert.equal(await kinds(nowhere.Arn), ' off');
  assert.equal(await kinds(names.Arn, office.Arn, office.Arn), 'domain cidr open');
});
