/** What tests script of a fake engine, and what they see of it. */
import type { RequestListener } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Egress, FlowRecord } from '../../egress.ts';
import type {
  ContainerConfig,
  Engine,
  Machine,
  MachineExit,
  RoleCredentials,
  SnapshotDamage,
  SnapshotFit,
  TerminalSize,
} from '../../engine.ts';

/** `launched`, `resumed`, `suspended` and `checkpointed` come when the work is done and the caller has not been told yet. */
export type FakeOperation =
  | 'build'
  | 'keptDisk'
  | 'seal'
  | 'launch'
  | 'suspend'
  | 'resume'
  | 'connect'
  | 'openShell'
  | 'setEgress'
  | 'setCredentials'
  | 'destroy'
  | 'adopt'
  | 'launched'
  | 'resumed'
  | 'suspended'
  | 'checkpoint'
  | 'checkpointed';

/** What an app's handler sees of its machine. `memory` starts as a copy of the snapshot's and survives suspend. */
export interface FakeGuest {
  readonly id: string;
  readonly memory: Record<string, unknown>;
}

export type FakeApp = (guest: FakeGuest, port: number) => RequestListener;

/** Plays a shell: reads what is typed from `terminal`, writes what is shown. Ending `terminal` without `exit` cuts it off. */
export type FakeShell = (
  terminal: Duplex,
  session: {
    readonly guest: FakeGuest;
    readonly size: TerminalSize;
    onResize(listener: (size: TerminalSize) => void): void;
  },
  exit: (code: number) => void,
) => void;

/** What work waits for. A `deaf` one does not hear that it is called off. */
export interface Gate {
  readonly open: Promise<void>;
  readonly deaf: boolean;
}

/** What would be on disk: shared by two fake engines to play a restart of the server. */
export interface FakeDisk {
  /** Snapshot folder to the memory image its machines start with. */
  readonly snapshots: Map<string, Record<string, unknown>>;
  /** Snapshot folders that do not fit this host as well as one sealed now. */
  readonly fits: Map<string, SnapshotFit>;
  /** Machine id to the memory it was suspended with, or `null` while it has only a folder. */
  readonly machines: Map<string, Record<string, unknown> | null>;
  /** Machine id to the guest that runs, whatever server started it. */
  readonly processes: Map<string, FakeGuest>;
  /** Machine id to when its VMM, which was stopped, goes on (see `freeze`). */
  readonly frozen: Map<string, Gate>;
  /** Counts boots of the host. */
  boot: number;
  /** Machine id to the boot in which it ran last. */
  readonly ranIn: Map<string, number>;
  /** Machine id to its checkpoint, and when that was taken. */
  readonly checkpoints: Map<string, { readonly memory: Record<string, unknown>; readonly takenAt: number }>;
  /** Machine id to when it was suspended. */
  readonly suspendedAt: Map<string, number>;
}

export interface FakeEngineOptions {
  readonly disk?: FakeDisk;
  /** The app of every machine; the default counts requests: `{"id":…,"count":N}`. */
  readonly app?: FakeApp;
  /** The shell of every image; null: it has none. The default echoes, and says its new size when that changes. */
  readonly shell?: FakeShell | null;
  /** Ports something listens on in the guest; everything when left out. */
  readonly listening?: readonly number[];
  readonly config?: Partial<ContainerConfig>;
  readonly buildLog?: string;
  readonly appLog?: string;
  /** When true, machines that an abandoned engine left are taken over. */
  readonly adopts?: boolean;
  /** When true, `launch` takes any snapshot folder, sealed here or not. */
  readonly anySnapshot?: boolean;
  /** Wall clock; default the host's. */
  readonly now?: () => number;
}

export interface FakeEngine extends Engine {
  readonly disk: FakeDisk;
  /** Live machines by id. */
  readonly machines: ReadonlyMap<string, Machine>;
  /** Every operation in the order it was asked for, as `launch microvm-1`. */
  readonly calls: readonly string[];
  /** What each live machine may reach now, and what each build and seal was given, by its id. */
  readonly egress: ReadonlyMap<string, Egress | undefined>;
  /** What each guest's metadata service serves now, by machine or build; nothing is left of a suspended or ended one. */
  readonly credentials: ReadonlyMap<string, RoleCredentials>;
  /** Adds a record to the flow log of `id`. */
  record(flow: FlowRecord): void;
  /** The next `operation` (for `id`, when given) rejects with `error`; disposing the result takes that back. */
  failNext(operation: FakeOperation, error: Error, id?: string): Disposable;
  /** Operations of this kind wait until the result is disposed or, unless they are `deaf`, their signal aborts. */
  hold(operation: FakeOperation, options?: { deaf?: boolean }): Disposable;
  /**
   * The server was killed: no call to this engine comes back any more, nothing it knows ends. Machines live on, for another
   * engine on the same disk to find.
   */
  abandon(): void;
  /** Lets the app or the VMM of `id` end. */
  exit(id: string, exit: MachineExit): void;
  /** A snapshot is found damaged, as by the scrub. */
  damage(damage: SnapshotDamage): void;
  /** Adds lines to a machine's captured output. */
  print(id: string, text: string, stream?: 'stdout' | 'stderr'): void;
}

export function createFakeDisk(): FakeDisk {
  return {
    snapshots: new Map(),
    fits: new Map(),
    machines: new Map(),
    processes: new Map(),
    frozen: new Map(),
    boot: 1,
    ranIn: new Map(),
    checkpoints: new Map(),
    suspendedAt: new Map(),
  };
}

/** The host starts anew: no process outlives that. */
export function restartHost(disk: FakeDisk): void {
  disk.boot += 1;
  disk.processes.clear();
}

/** Its VMM is stopped and answers nobody, until the result is disposed. `deaf`: who asks it cannot be called off either. */
export function freeze(disk: FakeDisk, id: string, { deaf = false } = {}): Disposable {
  const { promise: open, resolve } = Promise.withResolvers<void>();
  disk.frozen.set(id, { open, deaf });
  return { [Symbol.dispose]: resolve };
}
