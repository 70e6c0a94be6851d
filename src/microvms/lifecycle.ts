/**
 * The life of a microVM: what is true in each state, which event leads where, and the moments at which time alone moves
 * it. Pure: record + event + time in, record or refusal out; nothing here waits or writes.
 *
 * Internal states are finer than the service's: EXITED (the app ended, still shown as RUNNING) and RESUMING (still shown
 * as SUSPENDED). Every way to the end goes through TERMINATING, so that cleaning up survives a crash.
 */
import type { Hooks, Logging } from '../images/index.ts';
import { DomainError } from '../lib/index.ts';
import type { IdlePolicy, MicrovmState } from './types.ts';

/** What never changes after RunMicrovm. */
export interface Identity {
  readonly id: string;
  readonly imageArn: string;
  readonly imageVersion: string;
  /** The size of its version. */
  readonly memoryMiB: number;
  readonly endpointId: string;
  /** Host, with a port in port mode. */
  readonly endpoint: string;
  readonly endpointPort: number | null;
  readonly executionRoleArn: string | null;
  readonly idlePolicy: IdlePolicy | null;
  readonly logging: Logging | null;
  readonly hooks: Hooks | null;
  readonly maximumDurationSeconds: number;
  readonly ingressNetworkConnectors: readonly string[];
  readonly egressNetworkConnectors: readonly string[];
  readonly startedAt: number;
}

export type Pending = Identity & { readonly state: 'PENDING'; readonly runHookPayload: string | null };
export type Running = Identity & { readonly state: 'RUNNING'; readonly runningSince: number };
export type Exited = Identity & { readonly state: 'EXITED'; readonly exitCode: number; readonly exitedAt: number };
export type Suspending = Identity & {
  readonly state: 'SUSPENDING';
  readonly cause: 'request' | 'idle';
  /** Somebody asked for it again meanwhile. */
  readonly thenResume: boolean;
};
export type Suspended = Identity & { readonly state: 'SUSPENDED'; readonly suspendedAt: number };
export type Resuming = Identity & { readonly state: 'RESUMING'; readonly suspendedAt: number };
export type Terminating = Identity & {
  readonly state: 'TERMINATING';
  readonly reason: string;
  /** The app runs and is to be told. */
  readonly terminateHook: boolean;
};
export type Terminated = Identity & {
  readonly state: 'TERMINATED';
  readonly reason: string;
  readonly terminatedAt: number;
};

export type Microvm = Pending | Running | Exited | Suspending | Suspended | Resuming | Terminating | Terminated;
export type State = Microvm['state'];

export type Event =
  | { readonly type: 'launched' }
  | { readonly type: 'suspend'; readonly cause: 'request' | 'idle' }
  | { readonly type: 'suspended' }
  | { readonly type: 'suspend-failed' }
  | { readonly type: 'resume' }
  | { readonly type: 'resumed' }
  | { readonly type: 'resume-failed' }
  | { readonly type: 'app-exited'; readonly exitCode: number }
  /** It cannot go on: launch failed, the VMM ended, a hook refused. */
  | { readonly type: 'failed'; readonly reason: string }
  /** The server found no machine for it at start. */
  | { readonly type: 'lost' }
  /** The moment `dueAt` names has come. */
  | { readonly type: 'due' }
  | { readonly type: 'terminate' }
  | { readonly type: 'destroyed' };
export type EventType = Event['type'];

/** `kept`: accepted, nothing to change. `stale`: came too late to matter. `refused`: the caller is told. */
type Cell = State | 'kept' | 'stale' | 'refused';

/** Where each event may lead; `apply` decides among several by the record. The test walks the whole grid. */
export const TRANSITIONS = {
  PENDING: {
    launched: ['RUNNING'],
    suspend: ['refused', 'stale'],
    suspended: ['stale'],
    'suspend-failed': ['stale'],
    resume: ['kept'],
    resumed: ['stale'],
    'resume-failed': ['stale'],
    'app-exited': ['stale'],
    failed: ['TERMINATING'],
    lost: ['TERMINATING'],
    due: ['TERMINATING', 'stale'],
    terminate: ['TERMINATING'],
    destroyed: ['stale'],
  },
  RUNNING: {
    launched: ['stale'],
    suspend: ['SUSPENDING', 'TERMINATING'],
    suspended: ['stale'],
    'suspend-failed': ['stale'],
    resume: ['kept'],
    resumed: ['stale'],
    'resume-failed': ['stale'],
    'app-exited': ['EXITED'],
    failed: ['TERMINATING'],
    lost: ['TERMINATING'],
    due: ['TERMINATING', 'stale'],
    terminate: ['TERMINATING'],
    destroyed: ['stale'],
  },
  EXITED: {
    launched: ['stale'],
    suspend: ['refused', 'stale'],
    suspended: ['stale'],
    'suspend-failed': ['stale'],
    resume: ['kept'],
    resumed: ['stale'],
    'resume-failed': ['stale'],
    'app-exited': ['stale'],
    failed: ['TERMINATING'],
    lost: ['TERMINATING'],
    due: ['TERMINATING', 'stale'],
    terminate: ['TERMINATING'],
    destroyed: ['stale'],
  },
  SUSPENDING: {
    launched: ['stale'],
    suspend: ['kept', 'SUSPENDING'],
    suspended: ['SUSPENDED', 'RESUMING'],
    'suspend-failed': ['RUNNING'],
    resume: ['SUSPENDING', 'kept'],
    resumed: ['stale'],
    'resume-failed': ['stale'],
    'app-exited': ['EXITED'],
    failed: ['TERMINATING'],
    lost: ['TERMINATING'],
    due: ['TERMINATING', 'stale'],
    terminate: ['TERMINATING'],
    destroyed: ['stale'],
  },
  SUSPENDED: {
    launched: ['stale'],
    suspend: ['kept'],
    suspended: ['stale'],
    'suspend-failed': ['stale'],
    resume: ['RESUMING'],
    resumed: ['stale'],
    'resume-failed': ['stale'],
    'app-exited': ['stale'],
    failed: ['TERMINATING'],
    lost: ['kept'],
    due: ['TERMINATING', 'stale'],
    terminate: ['TERMINATING'],
    destroyed: ['stale'],
  },
  RESUMING: {
    launched: ['stale'],
    suspend: ['refused', 'stale'],
    suspended: ['stale'],
    'suspend-failed': ['stale'],
    resume: ['kept'],
    resumed: ['RUNNING'],
    'resume-failed': ['SUSPENDED'],
    'app-exited': ['stale'],
    failed: ['TERMINATING'],
    lost: ['TERMINATING'],
    due: ['TERMINATING', 'stale'],
    terminate: ['TERMINATING'],
    destroyed: ['stale'],
  },
  TERMINATING: {
    launched: ['stale'],
    suspend: ['refused', 'stale'],
    suspended: ['stale'],
    'suspend-failed': ['stale'],
    resume: ['refused'],
    resumed: ['stale'],
    'resume-failed': ['stale'],
    'app-exited': ['stale'],
    failed: ['stale'],
    lost: ['kept'],
    due: ['stale'],
    terminate: ['kept'],
    destroyed: ['TERMINATED'],
  },
  TERMINATED: {
    launched: ['stale'],
    suspend: ['refused', 'stale'],
    suspended: ['stale'],
    'suspend-failed': ['stale'],
    resume: ['refused'],
    resumed: ['stale'],
    'resume-failed': ['stale'],
    'app-exited': ['stale'],
    failed: ['stale'],
    lost: ['kept'],
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
} as const;

/** What `event` makes of `record` at the moment `at`. */
export function apply(record: Microvm, event: Event, at: number): Outcome {
  const cells: readonly Cell[] = TRANSITIONS[record.state][event.type];
  const [only] = cells;
  if (cells.length === 1 && only === 'kept') return { kind: 'kept' };
  if (cells.length === 1 && only === 'stale') return { kind: 'stale' };
  switch (event.type) {
    case 'launched':
    case 'resumed':
    case 'suspend-failed':
      return moved({ ...identityOf(record), state: 'RUNNING', runningSince: at });
    case 'suspend':
      return suspend(record, event.cause);
    case 'suspended':
      return record.state === 'SUSPENDING' && record.thenResume
        ? moved({ ...identityOf(record), state: 'RESUMING', suspendedAt: at })
        : moved({ ...identityOf(record), state: 'SUSPENDED', suspendedAt: at });
    case 'resume':
      return resume(record);
    case 'resume-failed':
      return record.state === 'RESUMING'
        ? moved({ ...identityOf(record), state: 'SUSPENDED', suspendedAt: record.suspendedAt })
        : { kind: 'stale' };
    case 'app-exited':
      return moved({ ...identityOf(record), state: 'EXITED', exitCode: event.exitCode, exitedAt: at });
    case 'failed':
      return end(record, event.reason, false);
    case 'lost':
      return end(record, record.state === 'EXITED' ? REASONS.exited(record.exitCode) : REASONS.lost, false);
    case 'due':
      return due(record, at);
    case 'terminate':
      return end(record, REASONS.success, record.state === 'RUNNING');
    case 'destroyed':
      return record.state === 'TERMINATING'
        ? moved({ ...identityOf(record), state: 'TERMINATED', reason: record.reason, terminatedAt: at })
        : { kind: 'stale' };
    default:
      return event satisfies never;
  }
}

/** When time alone moves the record, ms since the epoch; null when it never does. Idleness is not known here. */
export function dueAt(record: Microvm): number | null {
  const lifetimeEnd = record.startedAt + record.maximumDurationSeconds * 1000;
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

/** A suspend that was not asked for by a caller is never refused, only too late. */
function suspend(record: Microvm, cause: 'request' | 'idle'): Outcome {
  if (record.state === 'RUNNING') {
    // 0 means: end instead of suspend (documented).
    if (record.idlePolicy?.suspendedDurationSeconds === 0) return end(record, REASONS.allowance, true);
    return moved({ ...identityOf(record), state: 'SUSPENDING', cause, thenResume: false });
  }
  if (cause === 'idle') return record.state === 'SUSPENDING' ? { kind: 'kept' } : { kind: 'stale' };
  if (record.state === 'SUSPENDING') {
    return record.thenResume ? moved({ ...record, thenResume: false }) : { kind: 'kept' };
  }
  return { kind: 'refused', error: refusal(record, 'suspended') };
}

function resume(record: Microvm): Outcome {
  if (record.state === 'SUSPENDED') {
    return moved({ ...identityOf(record), state: 'RESUMING', suspendedAt: record.suspendedAt });
  }
  // The wish is kept and carried out once suspended. GUESS: resume-while-suspending
  if (record.state === 'SUSPENDING')
    return record.thenResume ? { kind: 'kept' } : moved({ ...record, thenResume: true });
  return { kind: 'refused', error: refusal(record, 'resumed') };
}

function due(record: Microvm, at: number): Outcome {
  const moment = dueAt(record);
  if (moment === null || at < moment) return { kind: 'stale' };
  if (record.state === 'EXITED') return end(record, REASONS.exited(record.exitCode), false);
  const lifetimeOver = at >= record.startedAt + record.maximumDurationSeconds * 1000;
  return end(record, lifetimeOver ? REASONS.lifetime : REASONS.allowance, record.state === 'RUNNING');
}

function end(record: Microvm, reason: string, terminateHook: boolean): Outcome {
  return moved({ ...identityOf(record), state: 'TERMINATING', reason, terminateHook });
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
function identityOf(record: Microvm): Identity {
  return {
    id: record.id,
    imageArn: record.imageArn,
    imageVersion: record.imageVersion,
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
  };
}
