/**
 * What this host can still take on. A machine's share is set aside before anything is started, in the tick in which it is
 * checked, so that any number of launches at once can never overrun the host together.
 *
 * Memory is promised at a machine's guaranteed size, not at its peak: what machines use beyond that is watched by
 * `pressure`, and whoever owns the machines makes room before the kernel has to.
 */
import { readFileSync, statfsSync } from 'node:fs';
import { totalmem } from 'node:os';
import { DomainError } from '../../lib/index.ts';

/** The share of one machine. */
export interface Need {
  readonly memoryMiB: number;
  /** Guaranteed, not peak; may be a fraction. */
  readonly cpus: number;
}

export interface BudgetLimits {
  /** That all machines are promised together. */
  readonly memoryMiB: number;
  /** Guaranteed vCPUs of all machines. */
  readonly cpus: number;
  /** Live machines: each costs processes, threads and open files. */
  readonly machines: number;
}

export interface Gauges {
  /** Memory the kernel could give without swapping, MiB. */
  availableMemoryMiB(): number;
  /** Free space of the state folder's file system, MiB. */
  freeDiskMiB(): number;
}

export interface Budget {
  readonly limits: BudgetLimits;
  /** Sets a share aside for `id`, instead of what it had. @throws DomainError `CAPACITY` saying what is short */
  take(id: string, need: Need): void;
  /** It runs already, whatever the limits are now. */
  hold(id: string, need: Need): void;
  /** Idempotent. */
  release(id: string): void;
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

/** Refuses nothing. */
export function unboundedBudget(): Budget {
  const all = Number.POSITIVE_INFINITY;
  return createBudget(
    { memoryMiB: all, cpus: all, machines: all },
    { availableMemoryMiB: () => all, freeDiskMiB: () => all },
  );
}

export function createBudget(limits: BudgetLimits, gauges: Gauges): Budget {
  return new HostBudget(limits, gauges);
}

class HostBudget implements Budget {
  readonly limits: BudgetLimits;
  readonly #gauges: Gauges;
  readonly #held = new Map<string, Need>();
  #memoryMiB = 0;
  #cpus = 0;

  constructor(limits: BudgetLimits, gauges: Gauges) {
    this.limits = limits;
    this.#gauges = gauges;
  }

  take(id: string, need: Need): void {
    this.release(id);
    const short = this.#shortOf(need);
    if (short !== undefined) {
      throw new DomainError(
        'CAPACITY',
        `This host has no capacity for another MicroVM now: ${short}. Suspend or terminate others and try again.`,
      );
    }
    this.hold(id, need);
  }

  hold(id: string, need: Need): void {
    this.release(id);
    this.#held.set(id, need);
    this.#memoryMiB += need.memoryMiB + OVERHEAD_MIB;
    this.#cpus += need.cpus;
  }

  release(id: string): void {
    const need = this.#held.get(id);
    if (need === undefined) return;
    this.#held.delete(id);
    this.#memoryMiB -= need.memoryMiB + OVERHEAD_MIB;
    this.#cpus -= need.cpus;
  }

  pressure(): boolean {
    return this.#held.size > 0 && this.#gauges.availableMemoryMiB() < MIN_AVAILABLE_MEMORY_MIB;
  }

  #shortOf(need: Need): string | undefined {
    const { memoryMiB, cpus, machines } = this.limits;
    const wanted = need.memoryMiB + OVERHEAD_MIB;
    if (this.#held.size >= machines) return `it runs ${this.#held.size} machines, and ${machines} is its limit`;
    if (this.#memoryMiB + wanted > memoryMiB) {
      return `${this.#memoryMiB} of ${memoryMiB} MiB memory are promised, and it needs ${wanted}`;
    }
    if (this.#cpus + need.cpus > cpus) return `${this.#cpus} of ${cpus} guaranteed vCPUs are taken`;
    const available = this.#gauges.availableMemoryMiB();
    if (available < MIN_AVAILABLE_MEMORY_MIB + OVERHEAD_MIB) return `only ${available} MiB memory are available`;
    const free = this.#gauges.freeDiskMiB();
    const kept = MIN_FREE_DISK_MIB + DELTA_MIB * (this.#held.size + 1);
    return free < kept ? `only ${free} MiB disk are free, and ${kept} are kept for suspends` : undefined;
  }
}

/** A guaranteed vCPU is a promise only kept when all want it at once; the host's are promised this often. */
const CPU_OVERCOMMIT = 16;
/** For the server, the gateway and the system. */
const OTHERS_MIB = 1024;
/** Threads of one QEMU with its helpers, generously. */
const THREADS_EACH = 64;
/** The server's sockets and files for one machine. */
const FILES_EACH = 16;

/** The limits of this host; `memoryMiB` is the operator's, where given. */
export function hostLimits(cpus: number, memoryMiB?: number): BudgetLimits {
  const total = Math.floor(totalmem() / 1024 ** 2);
  return {
    memoryMiB: memoryMiB ?? Math.max(0, total - OTHERS_MIB),
    cpus: cpus * CPU_OVERCOMMIT,
    machines: Math.max(1, Math.min(Math.floor(threadsMax() / THREADS_EACH), Math.floor(filesMax() / FILES_EACH))),
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

function threadsMax(): number {
  return Number(read('/proc/sys/kernel/threads-max')) || 4096;
}

function filesMax(): number {
  return Number(/^Max open files\s+(\d+)/m.exec(read('/proc/self/limits'))?.[1]) || 1024;
}

function read(file: string): string {
  return readFileSync(file, 'latin1');
}
