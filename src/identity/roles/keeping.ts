/**
 * Keeps one guest's credentials as they should be: gives, renews ahead of their end, takes back when the role was revoked,
 * lost its source or its trust, and when they ended.
 *
 * Invariant: one round at a time, and always one more after a change; between rounds the guest has what `#has` says, or
 * nothing is known and the next round settles it.
 */
import { type Clock, type Logger, MachineError, messageOf } from '../../lib/index.ts';
import { type CredentialTarget, type Lease, type RoleCredentials, SourceError } from './role-credentials.ts';

/** What is asked of the vendor of credentials. */
export interface Vendor {
  /** `given`: credentials are to be had; `none`: there is no source; `withdrawn`: they must not be had. */
  standing(lease: Lease): 'given' | 'none' | 'withdrawn';
  credentialsFor(
    roleArn: string,
    options: { sessionName: string; signal?: AbortSignal | undefined },
  ): Promise<RoleCredentials>;
}

export interface KeepingOptions {
  readonly clock: Clock;
  readonly log: Logger;
  readonly mayHold: boolean;
  readonly onDispose: () => void;
}

const PATIENT_MS = 3000;
const FIRST_RETRY_MS = 1000;
const MAX_RETRY_MS = 30_000;
/** Timers stand still while the host sleeps, expiries do not. */
const MAX_TIMER_MS = 60_000;

export class Keeping implements AsyncDisposable {
  readonly #vendor: Vendor;
  readonly #target: CredentialTarget;
  readonly #lease: Lease;
  readonly #o: KeepingOptions;
  readonly #over = new AbortController();
  /** `unknown` after a change of the guest that was not confirmed. */
  #has: RoleCredentials | 'nothing' | 'unknown';
  #timer: Disposable | undefined;
  #retryMs = FIRST_RETRY_MS;
  #running: Promise<void> | undefined;
  #isOutdated = false;
  /** Ends the asking that is under way. */
  #change = new AbortController();

  constructor(vendor: Vendor, target: CredentialTarget, lease: Lease, options: KeepingOptions) {
    this.#vendor = vendor;
    this.#target = target;
    this.#lease = lease;
    this.#o = options;
    this.#has = options.mayHold ? 'unknown' : 'nothing';
  }

  get roleArn(): string {
    return this.#lease.roleArn;
  }

  /** The first round, which may go on behind this: somebody waits for the guest. */
  async beginPatiently(): Promise<void> {
    const enough = Promise.withResolvers<void>();
    using _timer = this.#o.clock.after(PATIENT_MS, () => enough.resolve());
    this.#next();
    await Promise.race([this.#running, enough.promise]);
  }

  /** The first round. @throws what went wrong in it */
  async begin(signal: AbortSignal | undefined): Promise<void> {
    const bounded = signal === undefined ? this.#over.signal : AbortSignal.any([signal, this.#over.signal]);
    let failure: unknown;
    const first = this.#round(bounded).catch((error: unknown) => {
      failure = error;
    });
    this.#running = first.finally(() => this.#roundEnded());
    await first;
    // A round that a change cut short has begun again.
    while (this.#running !== undefined) await this.#running;
    signal?.throwIfAborted();
    if (failure !== undefined) throw failure;
  }

  /** The role is not what it was. */
  changed(): void {
    this.#isOutdated = true;
    this.#retryMs = FIRST_RETRY_MS;
    // A source that is slow must not keep what was revoked in the guest.
    this.#change.abort();
    this.#next();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort(new MachineError('exited', 'the credentials are not kept any longer'));
    this.#timer?.[Symbol.dispose]();
    this.#o.onDispose();
    await this.#running;
  }

  #next(): void {
    if (this.#over.signal.aborted || this.#running !== undefined) return;
    this.#isOutdated = false;
    this.#running = this.#round(this.#over.signal)
      .catch((error: unknown) => this.#failed(error))
      .finally(() => this.#roundEnded());
  }

  #roundEnded(): void {
    this.#running = undefined;
    if (this.#isOutdated) this.#next();
  }

  async #round(signal: AbortSignal): Promise<void> {
    this.#timer?.[Symbol.dispose]();
    const { clock, log } = this.#o;
    const { roleArn, sessionName } = this.#lease;
    const standing = this.#vendor.standing(this.#lease);
    if (standing !== 'given') {
      if (this.#has !== 'nothing' || standing === 'withdrawn')
        log.info({ roleArn, guest: this.#target.id, standing }, 'a guest has no role credentials');
      return this.#take(signal);
    }
    const change = new AbortController();
    this.#change = change;
    let credentials: RoleCredentials;
    try {
      const asking = AbortSignal.any([signal, change.signal]);
      credentials = await this.#vendor.credentialsFor(roleArn, { sessionName, signal: asking });
    } catch (error) {
      if (change.signal.aborted) return;
      throw error;
    }
    if (change.signal.aborted) return;
    if (!isSame(this.#has, credentials)) {
      this.#has = 'unknown';
      await this.#target.setCredentials(credentials, { signal });
      this.#has = credentials;
      log.debug({ roleArn, guest: this.#target.id, expiresAt: credentials.expiresAt }, 'role credentials given');
    }
    const leftMs = credentials.renewAt - clock.now();
    // Not the newest: the source fails, and these are the best there are.
    if (leftMs <= 0) return this.#after(this.#backOff());
    this.#retryMs = FIRST_RETRY_MS;
    this.#after(leftMs);
  }

  async #take(signal: AbortSignal): Promise<void> {
    if (this.#has === 'nothing') return;
    this.#has = 'unknown';
    await this.#target.setCredentials(null, { signal });
    this.#has = 'nothing';
  }

  /** What the guest has stays until its end, unless the source says that there is nothing any more. */
  async #failed(error: unknown): Promise<void> {
    if (this.#over.signal.aborted) return;
    const { clock, log } = this.#o;
    const { roleArn } = this.#lease;
    log.warn(
      { roleArn, guest: this.#target.id, reason: messageOf(error), retryMs: this.#retryMs },
      'role credentials of a guest could not be renewed',
    );
    const has = this.#has;
    const now = clock.now();
    const isGone = error instanceof Error && error.cause instanceof SourceError && error.cause.kind === 'gone';
    const isOver = typeof has === 'object' && has.expiresAt <= now;
    if (isGone || isOver) await this.#take(this.#over.signal).catch((again: unknown) => this.#notTaken(again));
    const untilEnd = typeof has === 'object' && has.expiresAt > now ? has.expiresAt - now : Number.POSITIVE_INFINITY;
    this.#after(Math.min(this.#backOff(), untilEnd));
  }

  #backOff(): number {
    const delayMs = this.#retryMs;
    this.#retryMs = Math.min(MAX_RETRY_MS, delayMs * 2);
    return delayMs;
  }

  #notTaken(error: unknown): void {
    if (this.#over.signal.aborted) return;
    const fields = { roleArn: this.roleArn, guest: this.#target.id, reason: messageOf(error) };
    this.#o.log.error(fields, 'role credentials of a guest could not be taken back yet');
  }

  #after(delayMs: number): void {
    const { clock } = this.#o;
    const dueAt = clock.now() + delayMs;
    const arm = () => {
      if (this.#over.signal.aborted) return;
      this.#timer?.[Symbol.dispose]();
      const leftMs = dueAt - clock.now();
      this.#timer = clock.after(Math.min(MAX_TIMER_MS, Math.max(0, leftMs)), () =>
        clock.now() < dueAt ? arm() : this.#next(),
      );
    };
    arm();
  }
}

function isSame(has: RoleCredentials | 'nothing' | 'unknown', next: RoleCredentials): boolean {
  return (
    typeof has === 'object' &&
    has.accessKeyId === next.accessKeyId &&
    has.secretAccessKey === next.secretAccessKey &&
    has.sessionToken === next.sessionToken &&
    has.expiresAt === next.expiresAt
  );
}
