import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HOLDING_STATES } from '../images/index.ts';
import {
  apply,
  dueAt,
  type Event,
  type EventType,
  type Identity,
  type Microvm,
  publicState,
  REASONS,
  type State,
  TRANSITIONS,
} from './lifecycle.ts';

const START = 1_000_000;
const identity: Identity = {
  id: 'microvm-1',
  imageArn: 'arn:aws:lambda:us-east-1:000000000000:microvm-image:demo',
  imageVersion: '1.0',
  memoryMiB: 512,
  endpointId: 'e',
  endpoint: 'localhost:1',
  endpointPort: 1,
  executionRoleArn: null,
  idlePolicy: { maxIdleDurationSeconds: 60, suspendedDurationSeconds: 120, autoResumeEnabled: true },
  logging: null,
  hooks: null,
  maximumDurationSeconds: 3600,
  ingressNetworkConnectors: [],
  egressNetworkConnectors: [],
  startedAt: START,
};
const LIFETIME_END = START + 3_600_000;

/** Every shape a record of each state can have, as far as transitions look at it. */
function variants(state: State): Microvm[] {
  const bases: Identity[] = [
    identity,
    { ...identity, idlePolicy: null },
    { ...identity, idlePolicy: { maxIdleDurationSeconds: 60, suspendedDurationSeconds: 0, autoResumeEnabled: false } },
  ];
  return bases.flatMap((base): Microvm[] => {
    switch (state) {
      case 'PENDING':
        return [{ ...base, state, runHookPayload: 'secret' }];
      case 'RUNNING':
        return [{ ...base, state, runningSince: START }];
      case 'EXITED':
        return [{ ...base, state, exitCode: 3, exitedAt: START }];
      case 'SUSPENDING':
        return [true, false].map((thenResume) => ({ ...base, state, cause: 'request' as const, thenResume }));
      case 'SUSPENDED':
      case 'RESUMING':
        return [{ ...base, state, suspendedAt: START }];
      case 'TERMINATING':
        return [{ ...base, state, reason: 'r', terminateHook: false }];
      case 'TERMINATED':
        return [{ ...base, state, reason: 'r', terminatedAt: START }];
      default:
        return state satisfies never;
    }
  });
}

function events(type: EventType): Event[] {
  if (type === 'suspend')
    return [
      { type, cause: 'request' },
      { type, cause: 'idle' },
    ];
  if (type === 'app-exited') return [{ type, exitCode: 3 }];
  if (type === 'failed') return [{ type, reason: 'broken' }];
  return [{ type }];
}

for (const state of Object.keys(TRANSITIONS) as State[]) {
  for (const type of Object.keys(TRANSITIONS[state]) as EventType[]) {
    test(`${type} in ${state} leads exactly where the table says`, () => {
      const reached = new Set<string>();
      for (const record of variants(state)) {
        for (const event of events(type)) {
          for (const at of [START, LIFETIME_END]) {
            const outcome = apply(record, event, at);
            reached.add(outcome.kind === 'moved' ? outcome.record.state : outcome.kind);
            if (outcome.kind !== 'moved') continue;
            assert.equal(outcome.record.id, record.id);
            assert.equal(outcome.record.idlePolicy, record.idlePolicy);
          }
        }
      }
      assert.deepEqual([...reached].sort(), [...TRANSITIONS[state][type]].sort());
    });
  }
}

const [running] = variants('RUNNING');
const [pending] = variants('PENDING');
const [suspended] = variants('SUSPENDED');
const [exited] = variants('EXITED');
assert.ok(running && pending && suspended && exited);

function stateAfter(record: Microvm, ...steps: [Event, number][]): Microvm {
  return steps.reduce((now, [event, at]) => {
    const outcome = apply(now, event, at);
    return outcome.kind === 'moved' ? outcome.record : now;
  }, record);
}

test('a record keeps nothing of the state it left', () => {
  const after = stateAfter(pending, [{ type: 'launched' }, START + 5]);
  assert.deepEqual(after, { ...identity, state: 'RUNNING', runningSince: START + 5 });
});

test('an app that exited ends after the shown delay with its code as the reason', () => {
  const at = START + 1000;
  const record = stateAfter(running, [{ type: 'app-exited', exitCode: 9 }, at]);
  assert.equal(publicState(record.state), 'RUNNING');
  assert.equal(dueAt(record), at + 15_000);
  assert.equal(stateAfter(record, [{ type: 'due' }, at + 14_999]).state, 'EXITED');
  assert.deepEqual(stateAfter(record, [{ type: 'due' }, at + 15_000], [{ type: 'destroyed' }, at + 15_001]), {
    ...identity,
    state: 'TERMINATED',
    reason: 'Container Stopped with Exit Code: 9',
    terminatedAt: at + 15_001,
  });
});

test('a suspended microVM is due at the end of its allowance, or of its lifetime when that is sooner', () => {
  assert.equal(dueAt(suspended), START + 120_000);
  assert.equal(dueAt({ ...suspended, maximumDurationSeconds: 30 }), START + 30_000);
  assert.equal(dueAt({ ...suspended, idlePolicy: null }), LIFETIME_END);
  const reasonAt = (at: number) => {
    const after = stateAfter(suspended, [{ type: 'due' }, at]);
    return after.state === 'TERMINATING' ? after.reason : after.state;
  };
  assert.equal(reasonAt(START + 120_000), REASONS.allowance);
  assert.equal(reasonAt(LIFETIME_END), REASONS.lifetime);
});

test('a resume asked for while suspending is carried out once suspended', () => {
  const record = stateAfter(
    running,
    [{ type: 'suspend', cause: 'idle' }, START],
    [{ type: 'resume' }, START],
    [{ type: 'suspended' }, START + 20],
  );
  assert.equal(record.state, 'RESUMING');
});

test('a failed resume returns to SUSPENDED without a longer allowance', () => {
  const record = stateAfter(
    suspended,
    [{ type: 'resume' }, START + 50_000],
    [{ type: 'resume-failed' }, START + 60_000],
  );
  assert.deepEqual(record, suspended);
});

test('only an end asked for while the app runs calls the terminate hook', () => {
  const hook = (record: Microvm, event: Event, at = START) => {
    const after = stateAfter(record, [event, at]);
    return after.state === 'TERMINATING' && after.terminateHook;
  };
  assert.equal(hook(running, { type: 'terminate' }), true);
  assert.equal(hook(running, { type: 'due' }, LIFETIME_END), true);
  assert.equal(hook(running, { type: 'failed', reason: 'x' }), false);
  assert.equal(hook(suspended, { type: 'terminate' }), false);
  assert.equal(hook(exited, { type: 'due' }, LIFETIME_END), false);
});

test('changing an ended microVM is refused in the recorded words', () => {
  const [terminated] = variants('TERMINATED');
  assert.ok(terminated);
  const outcome = apply(terminated, { type: 'suspend', cause: 'request' }, START);
  assert.equal(outcome.kind, 'refused');
  assert.equal(
    outcome.kind === 'refused' && outcome.error.message,
    'The MicroVM microvm-1 has been terminated and its state cannot be changed.',
  );
});

test('a microVM needs its snapshot in every state but the last', () => {
  const states = Object.keys(TRANSITIONS).filter((state) => state !== 'TERMINATED');
  assert.deepEqual([...HOLDING_STATES].sort(), states.sort());
});
