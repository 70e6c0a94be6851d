import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { silentLogger, TestClock } from '../lib/index.ts';
import { openStore } from '../store/index.ts';
import { type Connectors, type CreateConnectorInput, createConnectors, managedConnectorArn } from './index.ts';
import { apply, type ConnectorEvent, type ConnectorRecord, type ConnectorState, TRANSITIONS } from './lifecycle.ts';

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

interface Bench extends AsyncDisposable {
  readonly connectors: Connectors;
  readonly clock: TestClock;
  restart(): Promise<Bench>;
}

async function bench(options: { quota?: number; stateDir?: string; clock?: TestClock } = {}): Promise<Bench> {
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
  });
  await connectors.start();
  const close = async () => {
    await connectors[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
  };
  return {
    connectors,
    clock,
    restart: async () => {
      await close();
      return bench({ ...options, stateDir, clock });
    },
    [Symbol.asyncDispose]: async () => {
      await close();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}

test('connectors move exactly where their table says', () => {
  const identity = {
    id: 'nc-1',
    arn: 'arn',
    name: 'n',
    configuration: INPUT.Configuration,
    operatorRole: ROLE,
    tags: {},
    createdAt: 1,
    modifiedAt: 1,
  };
  const records: Record<ConnectorState, ConnectorRecord> = {
    PENDING: { ...identity, state: 'PENDING', settlesAt: 5 },
    ACTIVE: { ...identity, state: 'ACTIVE', lastUpdate: null },
    DELETING: { ...identity, state: 'DELETING', settlesAt: 5 },
  };
  const events: ConnectorEvent[] = [
    { type: 'update', configuration: other, operatorRole: ROLE, settlesAt: 9 },
    { type: 'same' },
    { type: 'delete', settlesAt: 9 },
    { type: 'due' },
  ];
  for (const record of Object.values(records)) {
    for (const event of events) {
      const outcome = apply(record, event, 5);
      const led = outcome.kind === 'moved' ? outcome.record.state : outcome.kind === 'gone' ? 'GONE' : outcome.kind;
      const told = TRANSITIONS[record.state][event.type];
      // Time only moves an ACTIVE one that is being updated.
      assert.equal(
        led,
        record.state === 'ACTIVE' && event.type === 'due' ? 'kept' : told,
        `${record.state} ${event.type}`,
      );
      assert.equal(apply(record, { type: 'due' }, 4).kind, 'kept', 'not before its time');
    }
  }
});

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
  const bare = { VpcEgressConfiguration: { SubnetIds: ['subnet-9'] } };
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
