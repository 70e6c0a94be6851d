/**
 * What this host can still take on. A machine's share is set aside before anything is started, in the tick in which it is
 * checked, so that any number of launches at once can never overrun the host together.
 *
 * Memory is promised at a machine's guaranteed size, not at its peak: what machines use beyond that is watched by
 * `pressure`, and whoever owns the machines makes room before the kernel has to.
 *
 * A launch that does not fit is refused, a build waits its turn. Launches come at any rate and would always be there first:
 * a build that has waited long enough has what is given back kept for it.
 */
import { readFileSync, statfsSync } from 'node:fs';
import { totalmem } from 'node:os';
import { type Clock, DomainError, systemClock } from '../../lib/index.ts';
import { tasksMax } from './tasks.ts';

/** The share of one machine. */
export interface Need {
  readonly memoryMiB: number;
  /** Guaranteed, not peak; may be a fraction. */
  readonly cpus: number;
  /** What it may come to write; default a suspend's. */
  readonly diskMiB?: number;
}

export interface BudgetLimits {
  /** That all machines are promised together. */
  readonly memoryMiB: number;
  /** Guaranteed vCPUs of all machines. */
  readonly cpus: number;
  /** Live machines: each costs processes and threads. */
  readonly machines: number;
  /** Files the server may have open; default as many as it likes. */
  readonly files?: number;
}

export interface Gauges {
  /** Memory the kernel could give without swapping, MiB. */
  availableMemoryMiB(): number;
  /** Free space of the state folder's file system, MiB. */
  freeDiskMiB(): number;
}

/** All shares together. */
export interface Held {
  readonly machines: number;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly diskMiB: number;
  readonly files: number;
}

export interface WaitOptions {
  readonly signal?: AbortSignal;
  /** Called at most once, with what is short, when it has to wait. */
  onShort?(why: string): void;
}

export interface Budget {
  readonly limits: BudgetLimits;
  readonly held: Held;
  /**
   * Sets a share aside for `id`, instead of what it had. With `yields` it leaves room for who has waited long.
   * @throws DomainError `CAPACITY` saying what is short
   */
  take(id: string, need: Need, options?: { yields?: boolean }): void;
  /**
   * The same as soon as there is room, in the order of the calls. Rejects with the signal's reason when that aborts first.
   * @throws DomainError `CAPACITY` when there would not be room on the idle host, or not on its disk
   */
  wait(id: string, need: Need, options: WaitOptions): Promise<void>;
  /** It runs already, whatever the limits are now. */
  hold(id: string, need: Need): void;
  /** It will write more than was known when its share was taken. @throws DomainError `CAPACITY`; its share stays as it was */
  widen(id: string, diskMiB: number): void;
  /** It sleeps: of its share only its address is left. */
  rest(id: string): void;
  /** Idempotent. */
  release(id: string): void;
  /**
   * For what is useful but not needed: takes nothing from anybody, as `giveUp` is called, once, as soon as a share wants its room or memory
   * runs low. Disposing of it says that it is gone.
   */
  lend(need: Need, giveUp: () => void): Disposable;
  /** Whether memory runs short although every share was granted. */
  pressure(): boolean;
}

/** Below this a suspend or a log may fail half way: nothing new is begun. */
export const MIN_FREE_DISK_MIB = 1024;
/** What a suspend of an ordinary session writes; set aside on disk for each live machine. */
const DELTA_MIB = 64;
/** QEMU's own memory beside the guest's. */
const OVERHEAD_MIB = 96;
/** What the kernel must always be able to give: the server, the page cache of the snapshots, everybody else. */
const MIN_AVAILABLE_MEMORY_MIB = 512;
/** What is lent is given up below this, so that whoever comes next finds room. */
const LENDING_MEMORY_MIB = 2560;
/** The server's sockets and files for one machine; 7 measured, and what its traffic opens. */
const FILES_EACH = 16;
/** Source: the sizes' table, a quarter of a vCPU for 512 MiB. */
const MIB_PER_CPU = 2048;
/** How long a build lets launches go first. */
const PATIENCE_MS = 60_000;
/** Memory and disk come back without anybody telling. */
const LOOK_EVERY_MS = 1000;

/** What a microVM of this size is promised. */
export function needOf(memoryMiB: number): Need {
  return { memoryMiB, cpus: memoryMiB / MIB_PER_CPU };
}

/** Refuses nothing. */
export function unboundedBudget(): Budget {
  const all = Number.POSITIVE_INFINITY;
  return createBudget(
    { memoryMiB: all, cpus: all, machines: all },
    { availableMemoryMiB: () => all, freeDiskMiB: () => all },
  );
}

export function createBudget(limits: BudgetLimits, gauges: Gauges, clock: Clock = systemClock): Budget {
  return new HostBudget(limits, gauges, clock);
}

const NOTHING: Held = { machines: 0, memoryMiB: 0, cpus: 0, diskMiB: 0, files: 0 };
/** Its listener. */
const ASLEEP: Held = { ...NOTHING, files: 1 };

interface Waiter {
  readonly id: string;
  readonly share: Held;
  readonly sinceMs: number;
  readonly admitted: PromiseWithResolvers<void>;
}

class HostBudget implements Budget {
  readonly limits: BudgetLimits;
  readonly #gauges: Gauges;
  readonly #clock: Clock;
  readonly #shares = new Map<string, Held>();
  readonly #waiting: Waiter[] = [];
  readonly #lent = new Map<() => void, Held>();
  #held = NOTHING;
  #look: Disposable | undefined;

  constructor(limits: BudgetLimits, gauges: Gauges, clock: Clock) {
    this.limits = limits;
    this.#gauges = gauges;
    this.#clock = clock;
  }

  get held(): Held {
    return this.#held;
  }

  take(id: string, need: Need, { yields = false }: { yields?: boolean } = {}): void {
    this.#drop(id);
    this.#takeBack();
    const short = this.#shortOf(shareOf(need), yields ? this.#keptFree() : NOTHING);
    if (short === undefined) this.#add(id, shareOf(need));
    this.#admit();
    if (short === undefined) return;
    throw new DomainError(
      'CAPACITY',
      `This host has no capacity for another MicroVM now: ${short}. Suspend or terminate others and try again.`,
    );
  }

  async wait(id: string, need: Need, { signal, onShort }: WaitOptions): Promise<void> {
    signal?.throwIfAborted();
    const share = shareOf(need);
    const never = this.#neverFits(share);
    if (never !== undefined) throw new DomainError('CAPACITY', `This host has no capacity for a build: ${never}.`);
    const waiter: Waiter = { id, share, sinceMs: this.#clock.monotonicMs(), admitted: Promise.withResolvers() };
    this.#waiting.push(waiter);
    this.#admit();
    if (this.#waiting.includes(waiter)) onShort?.(this.#shortOf(share) ?? 'another build is first');
    const onAbort = () => this.#giveUp(waiter, signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      await waiter.admitted.promise;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  hold(id: string, need: Need): void {
    this.#drop(id);
    this.#add(id, shareOf(need));
    this.#admit();
  }

  widen(id: string, diskMiB: number): void {
    const share = this.#shares.get(id) ?? NOTHING;
    const short = this.#shortOfDisk(this.#held.diskMiB + diskMiB);
    if (short !== undefined) throw new DomainError('CAPACITY', `This host has no capacity for a build: ${short}.`);
    this.#drop(id);
    this.#add(id, { ...share, diskMiB: share.diskMiB + diskMiB });
  }

  rest(id: string): void {
    this.#drop(id);
    this.#add(id, ASLEEP);
    this.#admit();
  }

  release(id: string): void {
    this.#drop(id);
    this.#admit();
  }

  lend(need: Need, giveUp: () => void): Disposable {
    this.#lent.set(giveUp, shareOf(need));
    // Not before its owner has what is returned.
    queueMicrotask(() => this.#takeBack());
    return { [Symbol.dispose]: () => void this.#lent.delete(giveUp) };
  }

  pressure(): boolean {
    this.#takeBack();
    return this.#held.machines > 0 && this.#gauges.availableMemoryMiB() < MIN_AVAILABLE_MEMORY_MIB;
  }

  #add(id: string, share: Held): void {
    this.#shares.set(id, share);
    this.#held = sum(this.#held, share, 1);
    this.#takeBack();
  }

  /** What is lent, when it does not fit beside the shares any more. */
  #takeBack(): void {
    if (this.#lent.size === 0 || this.#isRoomy()) return;
    const lent = [...this.#lent.keys()];
    this.#lent.clear();
    for (const giveUp of lent) giveUp();
  }

  #isRoomy(): boolean {
    const { memoryMiB, cpus, machines, files = Number.POSITIVE_INFINITY } = this.limits;
    let all = this.#held;
    for (const share of this.#lent.values()) all = sum(all, share, 1);
    const isPromised = all.memoryMiB <= memoryMiB && all.cpus <= cpus && all.machines <= machines && all.files <= files;
    return isPromised && this.#gauges.availableMemoryMiB() >= LENDING_MEMORY_MIB;
  }

  #drop(id: string): void {
    const share = this.#shares.get(id);
    if (share === undefined) return;
    this.#shares.delete(id);
    // Fractions of vCPUs are powers of two, so that nothing is left of what was added.
    this.#held = sum(this.#held, share, -1);
  }

  /** Lets in who waits, first come first, as long as there is room. */
  #admit(): void {
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      if (this.#shortOf(first.share) !== undefined) break;
      this.#waiting.shift();
      this.#add(first.id, first.share);
      first.admitted.resolve();
    }
    if (this.#waiting.length === 0) {
      this.#look?.[Symbol.dispose]();
      this.#look = undefined;
    } else {
      this.#look ??= this.#clock.after(LOOK_EVERY_MS, () => {
        this.#look = undefined;
        this.#admit();
      });
    }
  }

  #giveUp(waiter: Waiter, reason: unknown): void {
    const at = this.#waiting.indexOf(waiter);
    if (at === -1) return;
    this.#waiting.splice(at, 1);
    waiter.admitted.reject(reason);
    this.#admit();
  }

  /** What a launch must not take from who has waited long. */
  #keptFree(): Held {
    const first = this.#waiting[0];
    return first !== undefined && this.#clock.monotonicMs() - first.sinceMs >= PATIENCE_MS ? first.share : NOTHING;
  }

  #shortOf(share: Held, kept: Held = NOTHING): string | undefined {
    const { memoryMiB, cpus, machines, files = Number.POSITIVE_INFINITY } = this.limits;
    const held = sum(this.#held, kept, 1);
    if (held.machines + share.machines > machines) {
      return `it runs ${held.machines} machines, and ${machines} is its limit`;
    }
    if (held.memoryMiB + share.memoryMiB > memoryMiB) {
      return `${held.memoryMiB} of ${memoryMiB} MiB memory are promised, and it needs ${share.memoryMiB}`;
    }
    if (held.cpus + share.cpus > cpus) return `${held.cpus} of ${cpus} guaranteed vCPUs are taken`;
    if (held.files + share.files > files) return `the server may have ${files} files open, and ${held.files} are taken`;
    const available = this.#gauges.availableMemoryMiB();
    if (available < MIN_AVAILABLE_MEMORY_MIB + OVERHEAD_MIB) return `only ${available} MiB memory are available`;
    return this.#shortOfDisk(held.diskMiB + share.diskMiB);
  }

  #shortOfDisk(promisedMiB: number): string | undefined {
    const free = this.#gauges.freeDiskMiB();
    const needed = MIN_FREE_DISK_MIB + promisedMiB;
    return free < needed ? `only ${free} MiB disk are free, and ${needed} are needed` : undefined;
  }

  /** What no other machine's end would change. */
  #neverFits(share: Held): string | undefined {
    const { memoryMiB, cpus } = this.limits;
    if (share.memoryMiB > memoryMiB) {
      return `it needs ${share.memoryMiB} MiB memory, and ${memoryMiB} is all that machines are promised (--memory-budget)`;
    }
    if (share.cpus > cpus) return `it needs ${share.cpus} guaranteed vCPUs, and ${cpus} is all there are`;
    const free = this.#gauges.freeDiskMiB();
    const needed = MIN_FREE_DISK_MIB + share.diskMiB;
    return free < needed ? `only ${free} MiB disk are free, and it needs ${needed}` : undefined;
  }
}

function shareOf({ memoryMiB, cpus, diskMiB = DELTA_MIB }: Need): Held {
  return { machines: 1, memoryMiB: memoryMiB + OVERHEAD_MIB, cpus, diskMiB, files: FILES_EACH };
}

function sum(a: Held, b: Held, sign: 1 | -1): Held {
  return {
    machines: a.machines + sign * b.machines,
    memoryMiB: a.memoryMiB + sign * b.memoryMiB,
    cpus: a.cpus + sign * b.cpus,
    diskMiB: a.diskMiB + sign * b.diskMiB,
    files: a.files + sign * b.files,
  };
}

/** A guaranteed vCPU is a promise only kept when all want it at once; the host's are promised this often. */
const CPU_OVERCOMMIT = 16;
/** For the server, the gateway and the system. */
const OTHERS_MIB = 1024;
/** Threads of one QEMU with its helpers, generously. */
const THREADS_EACH = 64;
/** The server's own, and what set-up, clients and builds open. */
const OTHER_FILES = 256;

/** The limits of this host; `memoryMiB` is the operator's, where given. */
export function hostLimits(cpus: number, memoryMiB?: number): BudgetLimits {
  // In a container it is less than the host has.
  const total = Math.floor(Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY) / 1024 ** 2);
  return {
    memoryMiB: memoryMiB ?? Math.max(0, total - OTHERS_MIB),
    cpus: cpus * CPU_OVERCOMMIT,
    machines: Math.max(1, Math.floor(tasksMax() / THREADS_EACH)),
    files: Math.max(FILES_EACH, filesMax() - OTHER_FILES),
  };
}

export function hostGauges(stateDir: string): Gauges {
  return {
    availableMemoryMiB: () =>
      Math.floor(Number(/^MemAvailable:\s+(\d+)/m.exec(read('/proc/meminfo'))?.[1] ?? 0) / 1024),
    freeDiskMiB: () => {
      const { bavail, bsize } = statfsSync(stateDir);
      return Math.floor((bavail * bsize) / 1024 ** 2);
    },
  };
}

function filesMax(): number {
  return Number(/^Max open files\s+(\d+)/m.exec(read('/proc/self/limits'))?.[1]) || 1024;
}

function read(file: string): string {
  return readFileSync(file, 'latin1');
}
