import assert from 'node:assert/strict';
import { test } from 'node:test';
import { apply, type ConnectorEvent, type ConnectorRecord, dueAt, inForce, TRANSITIONS } from './lifecycle.ts';
import type { Reason } from './reasons.ts';

const configuration = { VpcEgressConfiguration: { SubnetIds: ['subnet-1'] } };
const other = { VpcEgressConfiguration: { SubnetIds: ['subnet-2'] } };
const identity = {
  id: 'nc-1',
  arn: 'arn',
  name: 'n',
  configuration,
  operatorRole: 'role',
  domains: null,
  tags: {},
  createdAt: 1,
  modifiedAt: 1,
};
const { domains: _, ...withoutDomains } = identity;
const why: Reason = { code: 'InvalidSubnet', text: 'It has gone.' };
const previous = { configuration: other, operatorRole: 'role' };
const records: readonly ConnectorRecord[] = [
  { ...identity, state: 'PENDING', settlesAt: 5 },
  { ...identity, state: 'ACTIVE', lastUpdate: null },
  { ...identity, state: 'ACTIVE', lastUpdate: { status: 'InProgress', settlesAt: 5, previous } },
  // As rows were before domain lists and updates that can fail.
  { ...withoutDomains, state: 'ACTIVE', lastUpdate: { status: 'InProgress', settlesAt: 5 } },
  { ...identity, state: 'ACTIVE', lastUpdate: { status: 'Failed', why } },
  { ...identity, state: 'INACTIVE', why, lastUpdate: null },
  { ...identity, state: 'FAILED', why },
  { ...identity, state: 'DELETING', settlesAt: 5 },
  { ...identity, state: 'DELETE_FAILED', users: 1 },
];
const faults: readonly (Reason | null)[] = [null, why, { code: 'InternalError', text: 'Something else.' }];
const events: readonly ConnectorEvent[] = [
  { type: 'update', configuration: other, operatorRole: 'role', settlesAt: 9 },
  { type: 'same' },
  { type: 'domains', domains: [{ name: 'a.example', ports: [[443, 443]], content: 'opaque' }] },
  { type: 'delete', settlesAt: 9 },
  ...faults.flatMap((fault): ConnectorEvent[] => [
    { type: 'due', fault, users: 0 },
    { type: 'due', fault, users: 2 },
    { type: 'networks', fault },
  ]),
];

test('connectors move exactly where their table says, and every cell is reached', () => {
  const reached = new Set<string>();
  for (const record of records) {
    for (const event of events) {
      for (const at of [4, 5]) {
        const outcome = apply(record, event, at);
        const led = outcome.kind === 'moved' ? outcome.record.state : outcome.kind === 'gone' ? 'GONE' : outcome.kind;
        const allowed: readonly string[] = TRANSITIONS[record.state][event.type];
        assert.ok(allowed.includes(led), `${record.state} ${event.type} led to ${led}`);
        reached.add(`${record.state} ${event.type} ${led}`);
      }
    }
  }
  const told = Object.entries(TRANSITIONS).flatMap(([state, cells]) =>
    Object.entries<readonly string[]>(cells).flatMap(([event, led]) => led.map((one) => `${state} ${event} ${one}`)),
  );
  assert.deepEqual([...reached].sort(), told.sort());
});

test('time moves nothing before its moment', () => {
  for (const record of records) {
    assert.equal(apply(record, { type: 'due', fault: why, users: 2 }, 4).kind, 'kept');
    if (dueAt(record) === null) assert.equal(apply(record, { type: 'due', fault: why, users: 2 }, 99).kind, 'kept');
  }
});

test('until an update settled the configuration before it is in force, in old rows the new one', () => {
  assert.deepEqual(
    records.map(inForce),
    records.map((_, i) => (i === 2 ? other : configuration)),
  );
});
