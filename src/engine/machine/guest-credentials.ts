/**
 * What one guest's metadata service serves: pushed over its link, and taken back before any snapshot.
 *
 * Invariant: one change at a time, in the order they were asked for; once `withdraw` resolved nothing is pushed until
 * `allow`, so that no refresh that was late gets into a snapshot.
 */
import type { GuestLink } from '../../guest/index.ts';
import { type Logger, MachineError } from '../../lib/index.ts';
import type { RoleCredentials } from '../engine.ts';

/** A guest among twenty that start at once answers after seconds. */
const PUSH_TIMEOUT_MS = 30_000;
const CLEAR_TIMEOUT_MS = 10_000;

type Link = Pick<GuestLink, 'setCredentials' | 'clearCredentials'>;
type Options = { signal?: AbortSignal | undefined };

export class GuestCredentials {
  /** The session may be another one at each call. */
  readonly #link: () => Link;
  readonly #now: () => number;
  readonly #log: Logger;
  #isWarned = false;
  /** Something may be there: also after a push that failed. */
  #mayHold: boolean;
  #isAllowed = true;
  #last: Promise<void> = Promise.resolve();

  /** `mayHold`: an earlier server may have pushed some. */
  constructor(link: () => Link, now: () => number, log: Logger, options: { mayHold?: boolean } = {}) {
    this.#link = link;
    this.#now = now;
    this.#log = log;
    this.#mayHold = options.mayHold ?? false;
  }

  /** @throws MachineError */
  set(credentials: RoleCredentials | null, options: Options): Promise<void> {
    return this.#inTurn(async () => {
      options.signal?.throwIfAborted();
      if (credentials === null) return this.#clear(options);
      if (!this.#isAllowed) throw new MachineError('exited', 'the machine takes no credentials: it is being suspended');
      this.#mayHold = true;
      const document = documentOf(credentials, this.#now());
      const { erasesFreed } = await this.#link().setCredentials(document, {
        timeoutMs: PUSH_TIMEOUT_MS,
        ...signalOf(options),
      });
      if (!erasesFreed) this.#warn();
    });
  }

  /** Costs nothing when nothing was pushed. @throws MachineError when it was not confirmed: there must be no snapshot then */
  withdraw(options: Options): Promise<void> {
    return this.#inTurn(() => {
      this.#isAllowed = false;
      return this.#clear(options);
    });
  }

  allow(): void {
    this.#isAllowed = true;
  }

  #warn(): void {
    if (this.#isWarned) return;
    this.#isWarned = true;
    this.#log.warn(
      {},
      'this guest does not erase freed memory: credentials that its app read may be in its snapshots. Build its image again with --roles set; images of 4096 MiB and more never erase',
    );
  }

  async #clear(options: Options): Promise<void> {
    if (!this.#mayHold) return;
    await this.#link().clearCredentials({ timeoutMs: CLEAR_TIMEOUT_MS, ...signalOf(options) });
    this.#mayHold = false;
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.#last.then(work);
    this.#last = done.catch(() => {});
    return done;
  }
}

/** Source: EC2's documentation of the metadata service. */
function documentOf(credentials: RoleCredentials, now: number): Buffer {
  const document = {
    Code: 'Success',
    LastUpdated: timeOf(now),
    Type: 'AWS-HMAC',
    AccessKeyId: credentials.accessKeyId,
    SecretAccessKey: credentials.secretAccessKey,
    Token: credentials.sessionToken,
    Expiration: timeOf(credentials.expiresAt),
  };
  return Buffer.from(`${JSON.stringify(document, undefined, 2)}\n`);
}

/** Without fractions of a second, as the service writes it. */
function timeOf(at: number): string {
  return new Date(at).toISOString().replace(/\.\d+Z$/, 'Z');
}

function signalOf({ signal }: Options): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal };
}
