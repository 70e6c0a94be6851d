/**
 * The life of a microVM: what is true in each state, which event leads where, and the moments at which time alone moves
 * it. Pure: record + event + time in, record or refusal out; nothing here waits or writes.
 *
 * Internal states are finer than the service's: EXITED (the app ended, still shown as RUNNING) and RESUMING (still shown
 * as SUSPENDED). Every way to the end goes through TERMINATING, so that cleaning up survives a crash.
 *
 * Invariant: what a machine did says which of the microVM's machines it was (`epoch`) and moves nothing once the record
 * means another one. Moments that timers go by are on the scale of elapsed time (steady-clock.ts), those that are shown
 * on the wall's.
 */
import { DomainError } from '../lib/index.ts';
import type {
  Asleep,
  Common,
  Microvm,
  Pending,
  Resuming,
  State,
  SuspendCause,
  Suspended,
  Suspending,
  Terminating,
} from './records.ts';
import type { MicrovmState } from './types.ts';

export type * from './records.ts';

/** A moment, read off both clocks. */
export interface Moment {
  readonly wallMs: number;
  readonly elapsedMs: number;
}

/** What callers and time ask for. */
type Command =
  | { readonly type: 'suspend'; readonly cause: SuspendCause }
  | { readonly type: 'resume' }
  | { readonly type: 'terminate' }
  /** The moment `dueAt` names has come. */
  | { readonly type: 'due' }
  /** Nothing of it is left on the host. */
  | { readonly type: 'destroyed' };

/** What became of a machine, and of which. */
type MachineEvent = { readonly epoch: number } & (
  | { readonly type: 'launched' }
  | { readonly type: 'launch-failed'; readonly reason: string }
  | { readonly type: 'suspended' }
  /** Traffic came before anything was done to it. GUESS: idle-called-off */
  | { readonly type: 'suspend-called-off' }
  /** It could not be saved and runs on. */
  | { readonly type: 'suspend-failed'; readonly detail: string }
  /** Its hook refused. */
  | { readonly type: 'suspend-refused'; readonly reason: string }
  | { readonly type: 'resumed' }
  /** What was saved is as it was. */
  | { readonly type: 'resume-failed'; readonly reason: string }
  /** It ran, or what was saved is gone. */
  | { readonly type: 'resume-broken'; readonly reason: string }
  | { readonly type: 'app-exited'; readonly exitCode: number }
  | { readonly type: 'machine-ended'; readonly reason: string }
  /** An earlier server left neither machine nor saved state of it. */
  | { readonly type: 'lost'; readonly withHost?: boolean }
  /** It ended with its host, and a state of it from `takenAt` (wall clock) is left. */
  | { readonly type: 'fell-back'; readonly takenAt: number }
);

export type Event = Command | MachineEvent;
export type EventType = Event['type'];

/** `kept`: accepted, nothing to change. `stale`: came too late to matter. `refused`: the caller is told. */
type Cell = State | 'kept' | 'stale' | 'refused';

/**
 * Where each event may lead; `apply` decides among several by the record. What comes from a machine is stale as well when
 * the record means another one. The test walks the whole grid.
 */
export const TRANSITIONS = {
  PENDING: {
    launched: ['RUNNING', 'stale'],
    'launch-failed': ['TERMINATING', 'stale'],
    suspend: ['refused', 'stale'],
    suspended: ['stale'],
    'suspend-called-off': ['stale'],
    'suspend-failed': ['stale'],
    'suspend-refused': ['stale'],
    resume: ['kept'],
    resumed: ['stale'],
    'resume-failed': ['stale'],
    'resume-broken': ['stale'],
    'app-exited': ['stale'],
    'machine-ended': ['TERMINATING', 'stale'],
    lost: ['TERMINATING', 'stale'],
    'fell-back': ['SUSPENDED', 'TERMINATING', 'stale'],
    due: ['TERMINATING', 'stale'],
    terminate: ['TERMINATING'],
    destroyed: ['stale'],
  },
  RUNNING: {
    launched: ['stale'],
    'launch-failed': ['stale'],
    suspend: ['SUSPENDING', 'TERMINATING'],
    suspended: ['stale'],
    'suspend-called-off': ['stale'],
    'suspend-failed': ['stale'],
    'suspend-refused': ['stale'],
    resume: ['kept'],
    resumed: ['stale'],
    'resume-failed': ['stale'],
    'resume-broken': ['stale'],
    'app-exited': ['EXITED', 'stale'],
    'machine-ended': ['TERMINATING', 'stale'],
    lost: ['TERMINATING', 'stale'],
    'fell-back': ['SUSPENDED', 'TERMINATING', 'stale'],
    due: ['TERMINATING', 'stale'],
    terminate: ['TERMINATING'],
    destroyed: ['stale'],
  },
  EXITED: {
    launched: ['stale'],
    'launch-failed': ['stale'],
    suspend: ['refused', 'stale'],
    suspended: ['stale'],
    'suspend-called-off': ['stale'],
    'suspend-failed': ['stale'],
    'suspend-refused': ['stale'],
    resume: ['kept'],
    resumed: ['stale'],
    'resume-failed': ['stale'],
    'resume-broken': ['stale'],
    'app-exited': ['stale'],
    'machine-ended': ['stale'],
    lost: ['stale'],
    'fell-back': ['stale'],
    due: ['TERMINATING', 'stale'],
    terminate: ['TERMINATING'],
    destroyed: ['stale'],
  },
  SUSPENDING: {
    launched: ['stale'],
    'launch-failed': ['stale'],
    suspend: ['kept', 'SUSPENDING', 'stale'],
    suspended: ['SUSPENDED', 'RESUMING', 'stale'],
    'suspend-called-off': ['RUNNING', 'stale'],
    'suspend-failed': ['RUNNING', 'stale'],
    'suspend-refused': ['TERMINATING', 'stale'],
    resume: ['SUSPENDING', 'kept'],
    resumed: ['stale'],
    'resume-failed': ['stale'],
    'resume-broken': ['stale'],
    'app-exited': ['EXITED', 'stale'],
    'machine-ended': ['TERMINATING', 'stale'],
    lost: ['TERMINATING', 'stale'],
    'fell-back': ['SUSPENDED', 'TERMINATING', 'stale'],
    due: ['TERMINATING', 'stale'],
    terminate: ['TERMINATING'],
    destroyed: ['stale'],
  },
  SUSPENDED: {
    launched: ['stale'],
    'launch-failed': ['stale'],
    suspend: ['kept', 'stale'],
    suspended: ['stale'],
    'suspend-called-off': ['stale'],
    'suspend-failed': ['stale'],
    'suspend-refused': ['stale'],
    resume: ['RESUMING'],
    resumed: ['stale'],
    'resume-failed': ['stale'],
    'resume-broken': ['stale'],
    'app-exited': ['stale'],
    'machine-ended': ['stale'],
    lost: ['TERMINATING', 'stale'],
    'fell-back': ['SUSPENDED', 'TERMINATING', 'stale'],
    due: ['TERMINATING', 'stale'],
    terminate: ['TERMINATING'],
    destroyed: ['stale'],
  },
  RESUMING: {
    launched: ['stale'],
    'launch-failed': ['stale'],
    suspend: ['refused', 'stale'],
    suspended: ['stale'],
    'suspend-called-off': ['stale'],
    'suspend-failed': ['stale'],
    'suspend-refused': ['stale'],
    resume: ['kept'],
    resumed: ['RUNNING', 'stale'],
    'resume-failed': ['SUSPENDED', 'stale'],
    'resume-broken': ['TERMINATING', 'stale'],
    'app-exited': ['stale'],
    'machine-ended': ['TERMINATING', 'stale'],
    lost: ['TERMINATING', 'stale'],
    'fell-back': ['SUSPENDED', 'TERMINATING', 'stale'],
    due: ['TERMINATING', 'stale'],
    terminate: ['TERMINATING'],
    destroyed: ['stale'],
  },
  TERMINATING: {
    launched: ['stale'],
    'launch-failed': ['stale'],
    suspend: ['refused', 'stale'],
    suspended: ['stale'],
    'suspend-called-off': ['stale'],
    'suspend-failed': ['stale'],
    'suspend-refused': ['stale'],
    resume: ['refused'],
    resumed: ['stale'],
    'resume-failed': ['stale'],
    'resume-broken': ['stale'],
    'app-exited': ['stale'],
    'machine-ended': ['stale'],
    lost: ['stale'],
    'fell-back': ['stale'],
    due: ['stale'],
    terminate: ['kept'],
    destroyed: ['TERMINATED'],
  },
  TERMINATED: {
    launched: ['stale'],
    'launch-failed': ['stale'],
    suspend: ['refused', 'stale'],
    suspended: ['stale'],
    'suspend-called-off': ['stale'],
    'suspend-failed': ['stale'],
    'suspend-refused': ['stale'],
    resume: ['refused'],
    resumed: ['stale'],
    'resume-failed': ['stale'],
    'resume-broken': ['stale'],
    'app-exited': ['stale'],
    'machine-ended': ['stale'],
    lost: ['stale'],
    'fell-back': ['stale'],
    due: ['stale'],
    terminate: ['kept'],
    destroyed: ['stale'],
  },
} as const satisfies Record<State, Record<EventType, readonly Cell[]>>;

export type Outcome =
  | { readonly kind: 'moved'; readonly record: Microvm }
  | { readonly kind: 'kept' }
  | { readonly kind: 'stale' }
  | { readonly kind: 'refused'; readonly error: DomainError };

/** How long an ended app is still shown as RUNNING. Source: recorded, about 15 s. */
export const EXIT_SHOWN_AFTER_MS = 15_000;

/** Texts of `stateReason`. `success` and `exited` are recorded; the others are ours. GUESS: end-reasons */
export const REASONS = {
  success: 'Success.',
  exited: (exitCode: number) => `Container Stopped with Exit Code: ${exitCode}`,
  lifetime: 'The MicroVM reached its maximum duration.',
  allowance: 'The MicroVM reached its maximum suspended duration.',
  lost: 'The MicroVM was lost because the server stopped.',
  lostWithHost: 'The MicroVM was lost because the host restarted.',
  fellBack: (takenAt: number) =>
    `The host restarted; the MicroVM continues from its state of ${new Date(takenAt).toISOString()}.`,
} as const;

/** What `event` makes of `record` at the moment `at`. */
export function apply(record: Microvm, event: Event, at: Moment): Outcome {
  const cells: readonly Cell[] = TRANSITIONS[record.state][event.type];
  const [only] = cells;
  if (cells.length === 1 && only === 'kept') return { kind: 'kept' };
  if (cells.length === 1 && only === 'stale') return { kind: 'stale' };
  if ('epoch' in event && event.epoch !== record.epoch) return { kind: 'stale' };
  switch (event.type) {
    case 'launched':
    case 'resumed':
      return moved({ ...commonOf(record), state: 'RUNNING', suspendFailure: null });
    case 'suspend-called-off':
      // What was asked for by a caller meanwhile stands.
      return record.state === 'SUSPENDING' && record.cause === 'idle'
        ? moved({ ...commonOf(record), state: 'RUNNING', suspendFailure: null })
        : { kind: 'stale' };
    case 'suspend-failed':
      return moved({ ...commonOf(record), state: 'RUNNING', suspendFailure: event.detail });
    case 'suspend':
      return suspend(record, event.cause);
    case 'suspended':
      return suspended(record, at);
    case 'resume':
      return resume(record);
    case 'resume-failed':
      return record.state === 'RESUMING'
        ? moved({ ...commonOf(record), ...asleep(record.suspendedAt, event.reason), state: 'SUSPENDED' })
        : { kind: 'stale' };
    case 'app-exited':
      return moved({ ...commonOf(record), state: 'EXITED', exitCode: event.exitCode, exitedAt: at.elapsedMs });
    case 'launch-failed':
    case 'suspend-refused':
    case 'resume-broken':
    case 'machine-ended':
      return end(record, event.reason, false);
    case 'lost':
      return end(record, event.withHost === true ? REASONS.lostWithHost : REASONS.lost, false);
    case 'fell-back':
      return fellBack(record, event.takenAt, at);
    case 'due':
      return due(record, at.elapsedMs);
    case 'terminate':
      return end(record, REASONS.success, record.state === 'RUNNING');
    case 'destroyed':
      return record.state === 'TERMINATING'
        ? moved({ ...commonOf(record), state: 'TERMINATED', reason: record.reason, terminatedAt: at.wallMs })
        : { kind: 'stale' };
    default:
      return event satisfies never;
  }
}

/** When time alone moves the record, in elapsed time; null when it never does. Idleness is not known here. */
export function dueAt(record: Microvm): number | null {
  const lifetimeEnd = lifetimeEndOf(record);
  switch (record.state) {
    case 'PENDING':
    case 'RUNNING':
    case 'SUSPENDING':
    case 'RESUMING':
      return lifetimeEnd;
    case 'EXITED':
      return Math.min(lifetimeEnd, record.exitedAt + EXIT_SHOWN_AFTER_MS);
    case 'SUSPENDED':
      return Math.min(lifetimeEnd, allowanceEnd(record));
    case 'TERMINATING':
    case 'TERMINATED':
      return null;
    default:
      return record satisfies never;
  }
}

/** The state as the service shows it. */
export function publicState(state: State): MicrovmState {
  if (state === 'EXITED') return 'RUNNING';
  if (state === 'RESUMING') return 'SUSPENDED';
  return state;
}

/** States in which the reconciler has work to do. */
export function isTransient(record: Microvm): record is Pending | Suspending | Resuming | Terminating {
  return ['PENDING', 'SUSPENDING', 'RESUMING', 'TERMINATING'].includes(record.state);
}

function moved(record: Microvm): Outcome {
  return { kind: 'moved', record };
}

function lifetimeEndOf(record: Microvm): number {
  return record.bornAt + record.maximumDurationSeconds * 1000;
}

/** A suspend that was not asked for by a caller is never refused, only too late. */
function suspend(record: Microvm, cause: SuspendCause): Outcome {
  if (record.state === 'RUNNING') {
    // 0 means: end instead of suspend (documented).
    if (record.idlePolicy?.suspendedDurationSeconds === 0) return end(record, REASONS.allowance, true);
    return moved({ ...commonOf(record), state: 'SUSPENDING', cause, thenResume: false });
  }
  if (cause !== 'request') return { kind: 'stale' };
  if (record.state === 'SUSPENDED') return { kind: 'kept' };
  if (record.state === 'SUSPENDING') {
    const isAsked = record.cause === 'request' && !record.thenResume;
    return isAsked ? { kind: 'kept' } : moved({ ...record, cause: 'request', thenResume: false });
  }
  return { kind: 'refused', error: refusal(record, 'suspended') };
}

function suspended(record: Microvm, at: Moment): Outcome {
  const state = { ...commonOf(record), ...asleep(at.elapsedMs, null), state: 'SUSPENDED' } as const;
  return record.state === 'SUSPENDING' && record.thenResume ? resume(state) : moved(state);
}

/** Its allowance begins now: until its host ended it was at work. */
function fellBack(record: Microvm, takenAt: number, at: Moment): Outcome {
  // It may not sleep at all.
  if (record.idlePolicy?.suspendedDurationSeconds === 0) return end(record, REASONS.lostWithHost, false);
  return moved({ ...commonOf(record), ...asleep(at.elapsedMs, REASONS.fellBack(takenAt)), state: 'SUSPENDED' });
}

/** Records from before there were remarks have none. */
function asleep(suspendedAt: number, remark: string | null = null): Asleep {
  return { suspendedAt, remark };
}

function resume(record: Microvm): Outcome {
  if (record.state === 'SUSPENDED') {
    const next = { ...commonOf(record), epoch: record.epoch + 1 };
    return moved({ ...next, ...asleep(record.suspendedAt, record.remark), state: 'RESUMING' });
  }
  // The wish is kept and carried out once suspended. GUESS: resume-while-suspending
  if (record.state === 'SUSPENDING')
    return record.thenResume ? { kind: 'kept' } : moved({ ...record, thenResume: true });
  return { kind: 'refused', error: refusal(record, 'resumed') };
}

function due(record: Microvm, elapsedMs: number): Outcome {
  const moment = dueAt(record);
  if (moment === null || elapsedMs < moment) return { kind: 'stale' };
  if (record.state === 'EXITED') return end(record, REASONS.exited(record.exitCode), false);
  const reason = elapsedMs >= lifetimeEndOf(record) ? REASONS.lifetime : REASONS.allowance;
  return end(record, reason, record.state === 'RUNNING');
}

function end(record: Microvm, reason: string, terminateHook: boolean): Outcome {
  return moved({ ...commonOf(record), state: 'TERMINATING', reason, terminateHook });
}

function allowanceEnd(record: Suspended): number {
  if (record.idlePolicy === null) return Number.POSITIVE_INFINITY;
  return record.suspendedAt + record.idlePolicy.suspendedDurationSeconds * 1000;
}

/** The text for ended microVMs is recorded (taken for TERMINATING too); those for other states are ours. GUESS: transition-refusals */
function refusal(record: Microvm, what: 'suspended' | 'resumed'): DomainError {
  if (record.state === 'TERMINATED' || record.state === 'TERMINATING') {
    return new DomainError('INVALID', `The MicroVM ${record.id} has been terminated and its state cannot be changed.`);
  }
  const why =
    record.state === 'EXITED'
      ? 'its container has stopped'
      : record.state === 'RESUMING'
        ? 'it is being resumed'
        : 'it is starting';
  return new DomainError('CONFLICT', `The MicroVM ${record.id} cannot be ${what} now: ${why}. Try again later.`);
}

/** The unchanging part alone, so that no field of an old state lives on. */
function commonOf(record: Microvm): Common {
  return {
    id: record.id,
    imageArn: record.imageArn,
    imageVersion: record.imageVersion,
    ...(record.snapshot !== undefined && { snapshot: record.snapshot }),
    ...(record.principal !== undefined && { principal: record.principal }),
    memoryMiB: record.memoryMiB,
    endpointId: record.endpointId,
    endpoint: record.endpoint,
    endpointPort: record.endpointPort,
    executionRoleArn: record.executionRoleArn,
    idlePolicy: record.idlePolicy,
    logging: record.logging,
    hooks: record.hooks,
    maximumDurationSeconds: record.maximumDurationSeconds,
    ingressNetworkConnectors: record.ingressNetworkConnectors,
    egressNetworkConnectors: record.egressNetworkConnectors,
    startedAt: record.startedAt,
    bornAt: record.bornAt,
    epoch: record.epoch,
  };
}
