/** A microVM's record: what is known of it in each state. Its life is in lifecycle.ts. */
import type { Hooks, Logging } from '../images/index.ts';
import type { IdlePolicy } from './types.ts';

/** What never changes after RunMicrovm. */
export interface Identity {
  readonly id: string;
  readonly imageArn: string;
  readonly imageVersion: string;
  /** Which of its version's snapshots it was launched from; absent: the first. */
  readonly snapshot?: number;
  /** ARN of who called RunMicrovm; absent in records from before it was kept. */
  readonly principal?: string;
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
  /** Wall clock, for show. */
  readonly startedAt: number;
  /** Elapsed time; its life is counted from here. */
  readonly bornAt: number;
}

/** What every state has. */
export interface Common extends Identity {
  /** Which machine is meant: the first is 1, each resume makes the next. */
  readonly epoch: number;
}

export type Pending = Common & { readonly state: 'PENDING'; readonly runHookPayload: string | null };
export type Running = Common & {
  readonly state: 'RUNNING';
  /** Why it is not SUSPENDED though that was wanted last; null when nothing else was wanted. */
  readonly suspendFailure: string | null;
};
export type Exited = Common & {
  readonly state: 'EXITED';
  readonly exitCode: number;
  /** Elapsed time. */
  readonly exitedAt: number;
};
/** Somebody asked for it, nothing moved for long, or the host's memory runs short. */
export type SuspendCause = 'request' | 'idle' | 'pressure';
export type Suspending = Common & {
  readonly state: 'SUSPENDING';
  readonly cause: SuspendCause;
  /** Somebody asked for it again meanwhile. */
  readonly thenResume: boolean;
};
/** What stays the same while a resume is tried. */
export interface Asleep {
  /** Elapsed time. */
  readonly suspendedAt: number;
  /** What its user should know of it: it fell back, or could not be resumed; null when there is nothing to tell. */
  readonly remark: string | null;
}
export type Suspended = Common & Asleep & { readonly state: 'SUSPENDED' };
export type Resuming = Common & Asleep & { readonly state: 'RESUMING' };
export type Terminating = Common & {
  readonly state: 'TERMINATING';
  readonly reason: string;
  /** The app runs and is to be told. */
  readonly terminateHook: boolean;
};
export type Terminated = Common & {
  readonly state: 'TERMINATED';
  readonly reason: string;
  /** Wall clock, for show. */
  readonly terminatedAt: number;
};

export type Microvm = Pending | Running | Exited | Suspending | Suspended | Resuming | Terminating | Terminated;
export type State = Microvm['state'];
