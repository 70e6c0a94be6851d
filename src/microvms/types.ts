/**
 * What other rooms see of microVMs: inputs, views and the door's interface. Wire spelling of members is kept; instants are
 * milliseconds since the epoch; what is null here is null on the wire.
 */
import type { FlowRecord, LogLine, Machine } from '../engine/index.ts';
import type { Logging, PageRequest } from '../images/index.ts';
import type { Page } from '../store/index.ts';

export type { FlowRecord, LogLine, Machine, MachineExit, Shell, TerminalSize } from '../engine/index.ts';

/** States as the service shows them; internal ones are finer (lifecycle.ts). */
export type MicrovmState = 'PENDING' | 'RUNNING' | 'SUSPENDING' | 'SUSPENDED' | 'TERMINATING' | 'TERMINATED';

export interface IdlePolicy {
  readonly maxIdleDurationSeconds: number;
  readonly suspendedDurationSeconds: number;
  readonly autoResumeEnabled: boolean;
}

/** RunMicrovm as the wire layer passes it on, constraint layer already applied. */
export interface RunMicrovmInput {
  readonly imageIdentifier: string;
  readonly imageVersion?: string;
  readonly executionRoleArn?: string;
  readonly idlePolicy?: IdlePolicy;
  readonly logging?: Logging;
  readonly runHookPayload?: string;
  readonly maximumDurationInSeconds?: number;
  readonly ingressNetworkConnectors?: readonly string[];
  readonly egressNetworkConnectors?: readonly string[];
  readonly clientToken?: string;
  /** ARN of the caller, kept with the microVM; no part of what a repeated call must match. */
  readonly principal?: string;
}

/** Item of ListMicrovms. */
export interface MicrovmItem {
  readonly microvmId: string;
  readonly state: MicrovmState;
  readonly imageArn: string;
  readonly imageVersion: string;
  readonly startedAt: number;
}

/** Answer of RunMicrovm and GetMicrovm. */
export interface MicrovmView extends MicrovmItem {
  /** Bare host, with a port in port mode: `localhost:<port>`. */
  readonly endpoint: string;
  readonly executionRoleArn: string | null;
  readonly idlePolicy: IdlePolicy | null;
  readonly maximumDurationInSeconds: number;
  readonly terminatedAt: number | null;
  readonly stateReason: string | null;
  readonly ingressNetworkConnectors: readonly string[];
  readonly egressNetworkConnectors: readonly string[];
}

export type PortSpecification =
  | { readonly port: number }
  | { readonly range: { readonly startPort: number; readonly endPort: number } }
  | { readonly allPorts: Readonly<Record<string, never>> };

export interface AuthTokenInput {
  readonly microvmIdentifier: string;
  readonly expirationInMinutes: number;
  readonly allowedPorts: readonly PortSpecification[];
}

/** What a token says once it was decrypted. */
export interface TokenClaims {
  readonly microvmId: string;
  readonly kind: 'app' | 'shell';
  /** Inclusive ranges; `all` for every port. Empty for a shell token. */
  readonly ports: 'all' | readonly (readonly [number, number])[];
  /** ms since the epoch. */
  readonly expiresAt: number;
}

/** `unreadable`: not a token of this server. `expired`: was one. */
export type TokenCheck =
  | { readonly kind: 'valid'; readonly claims: TokenClaims }
  | { readonly kind: 'expired'; readonly claims: TokenClaims }
  | { readonly kind: 'unreadable' };

/**
 * Where microVMs get their address from; ingress implements it. `open` is called before the record is written (so that
 * RunMicrovm's answer carries the address) and again at start for every microVM that has not ended, then with the `port`
 * it had. `close` is called a while after the end; until then the address answers 502.
 */
export interface EndpointHost {
  open(endpoint: Endpoint): Promise<{ readonly address: string; readonly port: number | null }>;
  close(microvmId: string): Promise<void>;
}

export interface Endpoint {
  readonly microvmId: string;
  readonly endpointId: string;
  readonly port: number | null;
  /** The size of its version. */
  readonly memoryMiB: number;
}

/** `isMoving`: something is being done to it, also where its state for callers does not show that. */
export type HoldingMicrovm = MicrovmItem & { readonly isMoving: boolean };

/** An exchange under way through a machine. */
export interface UnderWay extends Disposable {
  /** For how long the machine had served when the exchange began. */
  readonly servedMs: number;
  /** Bytes of it moved; counts as activity of the microVM. */
  active(): void;
  /** The app has begun to answer. Until then the microVM is not idle, however silent the connection. GUESS: idle-unanswered */
  answered(): void;
}

export interface DrainStatus {
  readonly draining: boolean;
  /** MicroVMs with a machine, or about to have one. */
  readonly running: number;
  readonly suspended: number;
}

export interface Microvms extends AsyncDisposable {
  /** Recovery: brings records and reality together after a stop or crash. Once, when ingress can open endpoints. */
  start(): Promise<void>;
  /** Resolves when what an earlier server left running has been taken over, or given up. */
  allTakenOver(): Promise<void>;
  /** Writes the record as PENDING and begins the launch. @throws DomainError INVALID, DENIED, NOT_FOUND, CONFLICT */
  run(input: RunMicrovmInput): Promise<MicrovmView>;
  /** @throws DomainError NOT_FOUND */
  get(microvmId: string): Promise<MicrovmView>;
  /** Newest first, TERMINATED ones included. */
  list(
    request: PageRequest & { readonly imageIdentifier?: string; readonly imageVersion?: string },
  ): Promise<Page<MicrovmItem>>;
  /** All that have not ended, in no order. */
  holding(): AsyncIterable<HoldingMicrovm>;
  /** Until `undrain` nothing is launched or resumed, and what runs is suspended; answers what is still to come. */
  drain(): Promise<DrainStatus>;
  /** Idempotent. */
  undrain(): void;
  drainStatus(): Promise<DrainStatus>;
  /** @throws DomainError NOT_FOUND, INVALID (terminated), CONFLICT */
  suspend(microvmId: string): Promise<void>;
  /** @throws DomainError NOT_FOUND, INVALID (terminated), CONFLICT */
  resume(microvmId: string): Promise<void>;
  /** @throws DomainError NOT_FOUND */
  terminate(microvmId: string): Promise<void>;
  /** The token alone, for the header `X-aws-proxy-auth`. @throws DomainError NOT_FOUND, INVALID */
  createAuthToken(input: AuthTokenInput): Promise<string>;
  /** @throws DomainError NOT_FOUND, INVALID */
  createShellAuthToken(input: Omit<AuthTokenInput, 'allowedPorts'>): Promise<string>;
  /** Decrypts and checks the expiry; the caller compares microVM and port. Never throws. */
  verifyToken(token: string): Promise<TokenCheck>;
  /** Tokens are made with a new key from now on; issued ones stay good. Answers the key's id, the `kid` of new tokens. */
  rotateTokenKey(): Promise<string>;
  /** Also of one that ended; undefined when there is no record of it. */
  endpointIdOf(microvmId: string): Promise<string | undefined>;
  /**
   * The live machine, for traffic: at once when RUNNING, else waits for a launch, suspend or resume under way, and
   * resumes a suspended one when its policy says so. Counts as activity.
   * @throws DomainError NOT_FOUND, CONFLICT (it cannot be reached now); the signal's reason
   */
  wake(microvmId: string, options: { signal?: AbortSignal }): Promise<Machine>;
  /** An exchange through the machine has begun; dispose when it ended. A suspend waits a moment for those under way. */
  exchange(microvmId: string): UnderWay;
  /** Bytes came through the endpoint: restarts the idle clock. In memory only, cheap enough to be called per chunk. */
  activity(microvmId: string): void;
  /** The app's output, kept copy included, so also after the end. @throws DomainError NOT_FOUND */
  logs(microvmId: string, options: { cursor?: number; follow?: boolean; signal?: AbortSignal }): AsyncIterable<LogLine>;
  /**
   * What it reached and tried to reach, oldest first, as long as the log is kept, so also after the end. A follower ends
   * with the microVM. @throws DomainError NOT_FOUND
   */
  flows(microvmId: string, options: { follow?: boolean; signal?: AbortSignal }): AsyncIterable<FlowRecord>;
  /** How many microVMs that have not ended name this network connector. */
  usersOfConnector(arn: string): Promise<number>;
}
