/**
 * Elapsed time, on a scale that goes on over restarts: what lifetimes and allowances are counted in. It runs while the
 * host sleeps or the server is down, and does not care how the wall clock is set.
 *
 * Within one boot of the host it follows the time since boot. Over a boot only the wall clock tells how long it took; one
 * that went backwards counts as no time. So that this is the only thing a wrong wall clock can spoil, where the scale
 * stands is noted at start, every hour and at the end.
 */
import { type Clock, type Logger, messageOf } from '../lib/index.ts';
import type { NewRow, Records, Row, Store } from '../store/index.ts';

/** Where the scale stood when it was noted. */
interface Mark {
  readonly elapsedMs: number;
  readonly wallMs: number;
  readonly bootId: string;
  readonly bootMs: number;
  /** The last boot at whose begin everything was looked at that the one before had ended. Absent in older marks: as `bootId`. */
  readonly settledBootId?: string;
}

const ROW_ID = 'elapsed-time';
const NOTE_EVERY_MS = 3_600_000;
/** How soon it is noticed that the wall clock was set; until it is noted, a boot of the host would count the step as time. */
const LOOK_EVERY_MS = 60_000;
/** A difference that NTP does not make by slewing. */
const JUMP_MS = 10_000;
/** Both readings are rounded. */
const BOOT_SLACK_MS = 1000;

export class SteadyClock implements AsyncDisposable {
  /**
   * The host was started anew since an earlier server ran here, so that whatever that one left running is gone; or no server
   * has lived to the end of finding that out.
   */
  readonly isNewBoot: boolean;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #store: Store;
  readonly #rows: Records<Mark>;
  /** Elapsed time less time since boot. */
  readonly #offsetMs: number;
  #settledBootId: string;
  /** Wall clock less elapsed time, when last looked at. */
  #wallAheadMs: number;
  #lastMs = Number.NEGATIVE_INFINITY;
  #notedMs = 0;
  #timer: Disposable | undefined;

  constructor(options: { clock: Clock; log: Logger; store: Store; earlier: Mark | undefined }) {
    this.#clock = options.clock;
    this.#log = options.log;
    this.#store = options.store;
    this.#rows = rowsOf(options.store);
    this.#offsetMs = offsetOf(options.earlier, options.clock);
    const { bootId } = options.clock.sinceBoot();
    this.#settledBootId = options.earlier?.settledBootId ?? options.earlier?.bootId ?? bootId;
    this.isNewBoot = this.#settledBootId !== bootId;
    this.#wallAheadMs = options.clock.now() - this.now();
  }

  /** Milliseconds; began as the wall clock's and never goes back. */
  now(): number {
    this.#lastMs = Math.max(this.#lastMs, Math.round(this.#offsetMs + this.#clock.sinceBoot().ms));
    return this.#lastMs;
  }

  after(delayMs: number, callback: () => void): Disposable {
    return this.#clock.after(delayMs, callback);
  }

  /** Notes where it stands, now and from time to time. Never rejects. */
  async start(): Promise<void> {
    this.#look();
    await this.#note();
  }

  /** Of a new boot: everything has been looked at. Never rejects; a server after one that could not note it looks again. */
  async settle(): Promise<void> {
    if (!this.isNewBoot) return;
    this.#settledBootId = this.#clock.sinceBoot().bootId;
    await this.#note();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#timer?.[Symbol.dispose]();
    await this.#note();
  }

  #look(): void {
    this.#timer = this.#clock.after(LOOK_EVERY_MS, () => {
      if (this.#wasJump() || this.#clock.monotonicMs() - this.#notedMs >= NOTE_EVERY_MS) void this.#note();
      this.#look();
    });
  }

  /** Whether somebody set the wall clock since it was asked last. */
  #wasJump(): boolean {
    const wallAheadMs = this.#clock.now() - this.now();
    const jumpedMs = wallAheadMs - this.#wallAheadMs;
    this.#wallAheadMs = wallAheadMs;
    if (Math.abs(jumpedMs) < JUMP_MS) return false;
    this.#log.warn({ jumpedMs }, 'the wall clock of the host was set; lifetimes go on by the time that really passed');
    return true;
  }

  async #note(): Promise<void> {
    this.#notedMs = this.#clock.monotonicMs();
    const { bootId, ms: bootMs } = this.#clock.sinceBoot();
    const settledBootId = this.#settledBootId;
    const mark: Mark = { elapsedMs: this.now(), wallMs: this.#clock.now(), bootId, bootMs, settledBootId };
    try {
      const row = await this.#rows.get(ROW_ID);
      const write = row === undefined ? this.#rows.insert(rowOf(mark)) : this.#rows.save({ ...row, body: mark });
      await this.#store.write([write]);
    } catch (error) {
      this.#log.warn({ error: messageOf(error) }, 'elapsed time could not be noted; trying again');
      this.#notedMs = Number.NEGATIVE_INFINITY;
    }
  }
}

/** Takes up the scale where it was left. */
export async function openSteadyClock(store: Store, clock: Clock, log: Logger): Promise<SteadyClock> {
  const earlier: Row<Mark> | undefined = await rowsOf(store).get(ROW_ID);
  return new SteadyClock({ clock, log, store, earlier: earlier?.body });
}

function offsetOf(earlier: Mark | undefined, clock: Clock): number {
  const boot = clock.sinceBoot();
  if (earlier === undefined) return clock.now() - boot.ms;
  // A container started anew may keep the boot id and count its time from zero.
  if (earlier.bootId === boot.bootId && boot.ms + BOOT_SLACK_MS >= earlier.bootMs) {
    return earlier.elapsedMs - earlier.bootMs;
  }
  return earlier.elapsedMs + Math.max(0, clock.now() - earlier.wallMs) - boot.ms;
}

function rowsOf(store: Store): Records<Mark> {
  return store.records<Mark>('clocks');
}

function rowOf(body: Mark): NewRow<Mark> {
  return { id: ROW_ID, state: '', group: '', subgroup: '', createdAt: body.wallMs, dueAt: null, body };
}
