import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HOLDING_STATES } from '../images/index.ts';
import {
  apply,
  type Common,
  dueAt,
  type Event,
  type EventType,
  type Microvm,
  type Moment,
  publicState,
  REASONS,
  type State,
  TRANSITIONS,
} from './lifecycle.ts';

const START = 1_000_000;
const identity: Common = {
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
  startedAt: 5,
  bornAt: START,
  epoch: 3,
};
const { epoch } = identity;
const LIFETIME_END = START + 3_600_000;

/** Every shape a record of each state can have, as far as transitions look at it. */
function variants(state: State): Microvm[] {
  const bases: Common[] = [
    identity,
    { ...identity, idlePolicy: null },
    { ...identity, idlePolicy: { maxIdleDurationSeconds: 60, suspendedDurationSeconds: 0, autoResumeEnabled: false } },
  ];
  return bases.flatMap((base): Microvm[] => {
    switch (state) {
      case 'PENDING':
        return [{ ...base, state, runHookPayload: 'secret' }];
      case 'RUNNING':
        return [{ ...base, state, suspendFailure: null }];
      case 'EXITED':
        return [{ ...base, state, exitCode: 3, exitedAt: START }];
      case 'SUSPENDING':
        return (['request', 'idle', 'pressure'] as const).flatMap((cause) =>
          [true, false].map((thenResume) => ({ ...base, state, cause, thenResume })),
        );
      case 'SUSPENDED':
      case 'RESUMING':
        return [{ ...base, state, suspendedAt: START, remark: 'r' }];
      case 'TERMINATING':
        return [{ ...base, state, reason: 'r', terminateHook: false }];
      case 'TERMINATED':
        return [{ ...base, state, reason: 'r', terminatedAt: START }];
      default:
        return state satisfies never;
    }
  });
}

/** Each shape an event of this type can have: from the machine the record means, from the one before, from one to come. */
function events(type: EventType): Event[] {
  const epochs = [epoch - 1, epoch, epoch + 1];
  switch (type) {
    case 'suspend':
      return [
        { type, cause: 'request' },
        { type, cause: 'idle' },
        { type, cause: 'pressure' },
      ];
    case 'resume':
    case 'terminate':
    case 'due':
    case 'destroyed':
      return [{ type }];
    case 'app-exited':
      return epochs.map((of) => ({ type, epoch: of, exitCode: 3 }));
    case 'suspend-failed':
      return epochs.map((of) => ({ type, epoch: of, detail: 'no space' }));
    case 'launch-failed':
    case 'suspend-refused':
    case 'resume-broken':
    case 'resume-failed':
    case 'machine-ended':
      return epochs.map((of) => ({ type, epoch: of, reason: 'broken' }));
    case 'launched':
    case 'suspended':
    case 'suspend-called-off':
    case 'resumed':
    case 'lost':
      return epochs.map((of) => ({ type, epoch: of }));
    case 'fell-back':
      return epochs.map((of) => ({ type, epoch: of, takenAt: START }));
    default:
      return type satisfies never;
  }
}

const at = (elapsedMs: number): Moment => ({ elapsedMs, wallMs: elapsedMs + 7 });

/** Around every moment that means something to one of the variants. */
const MOMENTS = [START, START + 15_000, START + 120_000, LIFETIME_END].flatMap((moment) => [moment - 1, moment]);

for (const state of Object.keys(TRANSITIONS) as State[]) {
  for (const type of Object.keys(TRANSITIONS[state]) as EventType[]) {
    test(`${type} in ${state} leads exactly where the table says`, () => {
      const reached = new Set<string>();
      for (const record of variants(state)) {
        for (const event of events(type)) {
          for (const moment of MOMENTS) {
            const outcome = apply(record, event, at(moment));
            reached.add(outcome.kind === 'moved' ? outcome.record.state : outcome.kind);
            if (outcome.kind !== 'moved') continue;
            assert.ok(!('epoch' in event) || event.epoch === epoch, 'another machine moved it');
            const { state: to, epoch: then, ...rest } = outcome.record;
            assert.equal(then, to === 'RESUMING' ? epoch + 1 : epoch);
            for (const key of Object.keys(identity).filter((name) => name !== 'epoch')) {
              assert.deepEqual(rest[key as keyof typeof rest], record[key as keyof Microvm], key);
            }
          }
        }
      }
      assert.deepEqual([...reached].sort(), [...TRANSITIONS[state][type]].sort());
    });
  }
}

test('whatever happens in whatever order, an ended microVM never comes back and every state can be left for the end', () => {
  for (const state of Object.keys(TRANSITIONS) as State[]) {
    const reachable = new Set<State>([state]);
    for (const from of reachable) {
      for (const cells of Object.values(TRANSITIONS[from])) {
        for (const cell of cells) if (cell in TRANSITIONS) reachable.add(cell as State);
      }
    }
    assert.ok(reachable.has('TERMINATED'), state);
    if (state === 'TERMINATING') assert.deepEqual([...reachable].sort(), ['TERMINATED', 'TERMINATING']);
    if (state === 'TERMINATED') assert.deepEqual([...reachable], ['TERMINATED']);
  }
});

const [running] = variants('RUNNING');
const [pending] = variants('PENDING');
const [suspended] = variants('SUSPENDED');
const [exited] = variants('EXITED');
assert.ok(running && pending && suspended && exited);

function stateAfter(record: Microvm, ...steps: [Event, number][]): Microvm {
  return steps.reduce((now, [event, moment]) => {
    const outcome = apply(now, event, at(moment));
    return outcome.kind === 'moved' ? outcome.record : now;
  }, record);
}

test('a record keeps nothing of the state it left', () => {
  const after = stateAfter(pending, [{ type: 'launched', epoch }, START + 5]);
  assert.deepEqual(after, { ...identity, state: 'RUNNING', suspendFailure: null });
});

test('an app that exited ends after the shown delay with its code as the reason', () => {
  const then = START + 1000;
  const record = stateAfter(running, [{ type: 'app-exited', epoch, exitCode: 9 }, then]);
  assert.equal(publicState(record.state), 'RUNNING');
  assert.equal(dueAt(record), then + 15_000);
  assert.equal(stateAfter(record, [{ type: 'due' }, then + 14_999]).state, 'EXITED');
  assert.deepEqual(stateAfter(record, [{ type: 'due' }, then + 15_000], [{ type: 'destroyed' }, then + 15_001]), {
    ...identity,
    state: 'TERMINATED',
    reason: 'Container Stopped with Exit Code: 9',
    terminatedAt: then + 15_008,
  });
});

test('a suspended microVM is due at the end of its allowance, or of its lifetime when that is sooner', () => {
  assert.equal(dueAt(suspended), START + 120_000);
  assert.equal(dueAt({ ...suspended, maximumDurationSeconds: 30 }), START + 30_000);
  assert.equal(dueAt({ ...suspended, idlePolicy: null }), LIFETIME_END);
  const reasonAt = (moment: number) => {
    const after = stateAfter(suspended, [{ type: 'due' }, moment]);
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
    [{ type: 'suspended', epoch }, START + 20],
  );
  assert.equal(record.state, 'RESUMING');
  assert.equal(record.epoch, epoch + 1);
});

test('a failed resume returns to SUSPENDED without a longer allowance, and says why', () => {
  const record = stateAfter(
    suspended,
    [{ type: 'resume' }, START + 50_000],
    [{ type: 'resume-failed', epoch: epoch + 1, reason: 'damaged' }, START + 60_000],
  );
  assert.deepEqual(record, { ...suspended, epoch: epoch + 1, remark: 'damaged' });
});

test('what fell back says so while it sleeps and is resumed, and no longer once it runs', () => {
  const asleep = stateAfter(running, [{ type: 'fell-back', epoch, takenAt: Date.UTC(2026, 0, 2) }, START + 5]);
  const remark = 'The host restarted; the MicroVM continues from its state of 2026-01-02T00:00:00.000Z.';
  assert.deepEqual(asleep, { ...identity, state: 'SUSPENDED', suspendedAt: START + 5, remark });
  const resuming = stateAfter(asleep, [{ type: 'resume' }, START + 6]);
  assert.ok(resuming.state === 'RESUMING' && resuming.remark === remark);
  assert.ok(!('remark' in stateAfter(resuming, [{ type: 'resumed', epoch: epoch + 1 }, START + 7])));
});

test('what may not sleep does not fall back', () => {
  const [, , awake] = variants('RUNNING');
  assert.ok(awake);
  const after = stateAfter(awake, [{ type: 'fell-back', epoch, takenAt: START }, START]);
  assert.equal(after.state === 'TERMINATING' && after.reason, REASONS.lostWithHost);
});

test('only an end asked for while the app runs calls the terminate hook', () => {
  const hook = (record: Microvm, event: Event, moment = START) => {
    const after = stateAfter(record, [event, moment]);
    return after.state === 'TERMINATING' && after.terminateHook;
  };
  assert.equal(hook(running, { type: 'terminate' }), true);
  assert.equal(hook(running, { type: 'due' }, LIFETIME_END), true);
  assert.equal(hook(running, { type: 'machine-ended', epoch, reason: 'x' }), false);
  assert.equal(hook(suspended, { type: 'terminate' }), false);
  assert.equal(hook(exited, { type: 'due' }, LIFETIME_END), false);
});

test('changing an ended microVM is refused in the recorded words', () => {
  const [terminated] = variants('TERMINATED');
  assert.ok(terminated);
  const outcome = apply(terminated, { type: 'suspend', cause: 'request' }, at(START));
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
