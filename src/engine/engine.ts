/**
 * The engine's contract: live machines on this host. The domain rooms see only this file's types, through the door.
 *
 * Invariant: every machine has an owner. A factory that fails half way has undone itself; a `Machine` that was
 * disposed or whose VMM ended holds no process, socket or file besides its folder under `microvms/<id>`.
 */
import type { Duplex } from 'node:stream';
import type { DiskOrigin } from './build/origin.ts';
import type { Phases } from './build/phases.ts';
import type { Egress, FlowRecord } from './egress.ts';

/** Baseline memory of a size class; the guest is built with four times as much. */
export type MemoryMiB = 512 | 1024 | 2048 | 4096 | 8192;
export const MEMORY_SIZES_MIB = [512, 1024, 2048, 4096, 8192] as const satisfies readonly MemoryMiB[];

/** The part of an OCI image config the guest needs to run the app. */
export interface ContainerConfig {
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  /** `NAME=value`, image ENV first, then the version's environmentVariables, then the injected four. */
  readonly env: readonly string[];
  readonly workingDir: string;
  /** As in a Dockerfile: name or uid, optionally `:group`. Empty: root. */
  readonly user: string;
  readonly exposedPorts: readonly number[];
}

export interface BuildRequest {
  /** Names the machine and its working folder; unique per build. */
  readonly buildId: string;
  /** A folder on the host holding the unpacked artifact, `Dockerfile` at its root. Read only. */
  readonly contextDir: string;
  /** Whose build cache may be used; another owner never sees it. */
  readonly cacheOwner: string;
  /** Of the Dockerfile's steps and of pulling its bases. Absent: the NIC's link is down. */
  readonly egress?: Egress;
  /** Where the root disk is written: `<outDir>/disk` (raw ext4). The caller owns the folder. */
  readonly outDir: string;
  /** Absent: the machine ends with the build. */
  readonly stay?: Stay;
  /** Is told what took how long. */
  readonly phases?: Phases;
  /** Receives the build log while it happens; bytes, at most 64 KiB each. */
  onLog(chunk: Buffer): void;
}

/** How long a machine may be kept, paused, for the owner's next build. */
export interface Stay {
  readonly forMs: number;
  /** Sets its room aside until the result is disposed of; `giveUp` is called when that is wanted. */
  lend(giveUp: () => void): Disposable;
}

export interface BuiltDisk {
  /** Only to be read: it may be another name of a file that is kept. */
  readonly diskPath: string;
  readonly config: ContainerConfig;
  /** Bytes used in the root file system. */
  readonly usedBytes: number;
}

/** Fresh from the builder, or an earlier build's of the very same. */
export interface TracedDisk extends BuiltDisk {
  /** Absent where set-up made the builder before it told. */
  readonly origin?: DiskOrigin;
  /** False: of an earlier build. */
  readonly isFresh: boolean;
  /** What the builder machine ran on. */
  readonly builder: { readonly runtime: string; readonly kernel: string; readonly vmm: string };
}

/** A root disk with what it holds: its chunks of 1 MiB that are not all zero, in order, each with its SHA-256. */
export interface KeptDisk extends BuiltDisk {
  readonly bytes: number;
  readonly chunks: readonly { readonly at: number; readonly digest: Buffer }[];
}

/** When the app counts as started, so that its snapshot may be taken. */
export type Readiness =
  | { readonly kind: 'listening'; readonly port: number; readonly graceMs: number }
  | { readonly kind: 'hook'; readonly port: number; readonly path: string; readonly timeoutMs: number };

/** What the metadata service of a guest serves to its app. */
export interface RoleCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Empty where the key is no temporary one. */
  readonly sessionToken: string;
  /** ms since the epoch. */
  readonly expiresAt: number;
}

/** A guest that can be given role credentials. */
export interface CredentialHolder {
  readonly id: string;
  /**
   * What the guest's metadata service serves from now on; null: nothing. Resolves when the agent confirmed it.
   * @throws MachineError `exited` while it is being suspended or when it is over
   */
  setCredentials(credentials: RoleCredentials | null, options: { signal?: AbortSignal }): Promise<void>;
}

export interface SealRequest {
  readonly buildId: string;
  readonly disk: BuiltDisk;
  readonly config: ContainerConfig;
  readonly capabilities: 'default' | 'all';
  readonly memoryMiB: MemoryMiB;
  readonly readiness: Readiness;
  /** Of the app while it starts. Absent: the NIC's link is down. */
  readonly egress?: Egress;
  /** Gives the guest its role's credentials before the app starts; they are kept until the result is disposed, before the snapshot. */
  readonly lendCredentials?: (guest: CredentialHolder, options: { signal: AbortSignal }) => Promise<AsyncDisposable>;
  /** Final folder of the sealed snapshot; written under a temporary name beside it, fsynced, renamed, made read-only. */
  readonly snapshotDir: string;
  /** Is told what took how long. */
  readonly phases?: Phases;
  /** The app's stdout and stderr while it starts. */
  onLog(chunk: Buffer): void;
}

export interface SealedSnapshot {
  readonly snapshotDir: string;
  /** Allocated bytes, not lengths of sparse files. */
  readonly memoryBytes: number;
  readonly diskBytes: number;
}

/**
 * Why a build or seal was refused through the user's own doing; carried by `BuildFailure.cause`.
 * `reason` strings of the service live in the images room, not here.
 */
export type BuildFailureKind =
  | 'dockerfile-missing'
  | 'dockerfile-failed'
  | 'disk-full'
  | 'host-disk-full'
  | 'app-not-startable'
  | 'app-exited'
  | 'ready-timeout'
  | 'ready-client-error'
  | 'ready-server-error'
  | 'no-command';

export class BuildFailure extends Error {
  override readonly name = 'BuildFailure';
  readonly kind: BuildFailureKind;
  /** Exit code of the app or build step where there is one. */
  readonly exitCode: number | undefined;
  constructor(kind: BuildFailureKind, message: string, exitCode?: number) {
    super(message);
    this.kind = kind;
    this.exitCode = exitCode;
  }
}

/** Where a machine keeps what is its own: overlay and, when suspended, its delta. Under the state folder. */
export interface LaunchRequest {
  readonly id: string;
  readonly snapshotDir: string;
  /** Absent: the NIC's link is down. */
  readonly egress?: Egress;
}

export interface ResumeRequest extends LaunchRequest {
  /** What it is resumed from is its checkpoint until there is a newer one. Costs a copy of its overlay. */
  readonly keepsCheckpoint?: boolean;
}

export interface RehearseRequest {
  /** Of a machine that is gone when this is over. */
  readonly id: string;
  readonly snapshotDir: string;
  /** Of the app; it is asked for `/` there, once. */
  readonly port: number;
}

/** What the disk says of a machine that has no process. */
export type Recalled =
  /** A complete suspended state from which no machine ran on, of that moment by the wall clock. */
  | { readonly kind: 'suspended'; readonly takenAt: number }
  /** It ran in an earlier boot of the host. This is its newest checkpoint, and is its suspended state from now on. */
  | { readonly kind: 'checkpoint'; readonly takenAt: number }
  /** It ran in an earlier boot of the host, and nothing is left. */
  | { readonly kind: 'lost' }
  /** It never ran, or in this boot: whether it lives is for `adopt` to say. */
  | { readonly kind: 'nothing' };

export type MachineExit =
  /** The app ended inside the guest; the VMM may still be alive and must be disposed by the owner. */
  | { readonly kind: 'app'; readonly exitCode: number }
  /** The guest's own system ended: a kernel panic, a reset, a shutdown. */
  | { readonly kind: 'guest'; readonly message: string; readonly evidence: string }
  /** The VMM process ended by itself or was killed from outside, or its guest cannot be talked to. */
  | { readonly kind: 'vmm'; readonly message: string; readonly evidence: string };

export interface LogLine {
  /** Monotonic position in this machine's log; pass it back to continue. */
  readonly cursor: number;
  /** Guest wall clock, ms since the epoch. */
  readonly at: number;
  readonly stream: 'stdout' | 'stderr';
  readonly text: string;
}

/** Of a terminal's window; 0 to 65,535 each. */
export interface TerminalSize {
  readonly cols: number;
  readonly rows: number;
}

/** A root shell in the app's container: what is written is typed, what is read was shown. Destroying it ends it. */
export interface Shell extends Duplex {
  /** Resolves with the exit code once all that was shown has been read; stays pending when the shell was cut off. */
  readonly exited: Promise<number>;
  resize(size: TerminalSize): void;
}

/** One live machine: a VMM process joined with the link to its agent. */
export interface Machine extends AsyncDisposable, CredentialHolder {
  readonly id: string;
  /** VMM process id on the host. */
  readonly pid: number;
  /** Resolves when the app or the VMM ended without being asked; never rejects; stays pending after suspend or dispose. */
  readonly exited: Promise<MachineExit>;

  /**
   * Opens a byte stream to `127.0.0.1:<port>` in the guest. A guest that is slow is given a minute, one that is silent less.
   * @throws MachineError `failed` when nothing listens there, `exited` or `protocol` when the link is gone, `timeout`.
   */
  connect(port: number, options: { signal?: AbortSignal }): Promise<Duplex>;

  /**
   * Starts a shell of its own; it is destroyed when the machine is suspended or ends.
   * @throws MachineError `failed` when the image has no shell or too many are open, `unsupported` when it was built before
   * there were any, `exited` or `protocol` when the link is gone.
   */
  openShell(size: TerminalSize, options: { signal?: AbortSignal }): Promise<Shell>;

  /**
   * Withdraws credentials, pauses, writes delta and device state durably (fsynced) under `microvms/<id>`, ends the VMM.
   * When it rejects, the machine still runs as before, but for its credentials (or `exited` tells).
   */
  suspend(options: { signal?: AbortSignal }): Promise<SuspendReport>;

  /**
   * Writes what `suspend` would, with a copy of the disk, while the machine goes on but for a pause; durable when it resolves.
   * Credentials are withdrawn before and not given again, open streams are kept, one checkpoint is taken at a time. When it
   * rejects the machine goes on and the checkpoint before this one holds. @throws MachineError `unsupported` where the host
   * cannot, `timeout` when the pause would be too long, `failed` when the disk is too full
   */
  checkpoint(options: { signal?: AbortSignal }): Promise<CheckpointReport>;

  /**
   * Adds the memory the guest touched until now to what launches of its snapshot read ahead when it is not in the host's memory.
   * For a clone that tries an image, not for one that serves somebody. Never rejects. Absent: this engine reads nothing ahead.
   */
  noteTouched?(): Promise<void>;

  /** The app's captured output from `cursor` on; ends at what is there now unless `follow`. */
  logs(options: { cursor?: number; follow?: boolean; signal?: AbortSignal }): AsyncIterable<LogLine>;
}

export interface SuspendReport {
  /** Bytes of changed memory pages written. */
  readonly deltaBytes: number;
  readonly tookMs: number;
}

export interface CheckpointReport {
  /** Bytes of changed memory pages written. */
  readonly deltaBytes: number;
  readonly pausedMs: number;
}

/** Layers and cache mounts of one owner's builds. */
export interface BuildCache {
  /** Its folder's name, a digest of the owner. */
  readonly folder: string;
  /** Allocated, not the length of a sparse file. */
  readonly bytes: number;
  /** When a build last left it, ms since the epoch. */
  readonly usedAt: number;
}

export interface SnapshotDamage {
  readonly snapshotDir: string;
  readonly part: 'ram' | 'state' | 'disk' | 'changes' | 'manifest';
}

/** `older`: it can be launched, but one sealed now would be better. `misfit`: it cannot. */
export type SnapshotFit = { readonly kind: 'fits' } | { readonly kind: 'older' | 'misfit'; readonly why: string };

/** What a sealed snapshot is made of and was made by, as its manifest says. */
export interface SnapshotFacts {
  /** SHA-256 of the manifest, which has the digests of the parts. */
  readonly manifest: string;
  /** See `digestFile`: not the SHA-256 of the file as a whole. */
  readonly parts: Readonly<
    Record<'ram' | 'state' | 'disk' | 'changes', { readonly bytes: number; readonly sha256: string }>
  >;
  readonly vmm: { readonly name: string; readonly version: string; readonly accelerator: 'kvm' | 'tcg' };
  readonly kernel: string;
  /** Digest over all inputs of the runtime. */
  readonly runtime: string;
  /** Generation of the agent's link. */
  readonly link: number;
  /** SHA-256 of the guest's kernel and initramfs, which holds the agent; absent in snapshots from before it was kept. */
  readonly guest?: { readonly kernel: string; readonly initramfs: string };
}

export interface HostReport {
  readonly accelerator: 'kvm' | 'tcg';
  readonly vmmVersion: string;
  readonly cpus: number;
  /** Sentences about what this host cannot do and what follows, for start-up and `doctor`. */
  readonly remarks: readonly string[];
}

export interface Engine extends AsyncDisposable {
  readonly host: HostReport;
  /** Runs the Dockerfile in a builder machine. @throws BuildFailure, MachineError */
  build(request: BuildRequest, options: { signal?: AbortSignal }): Promise<TracedDisk>;
  /**
   * The root disk a sealed snapshot was made of, as its build left it; undefined when there is none any more that is whole.
   * It lies in the snapshot's folder: to be read, and only while that is there. The snapshot need not fit this host.
   */
  keptDisk(snapshotDir: string): Promise<KeptDisk | undefined>;
  /** Undefined when there is no manifest that is whole. The snapshot need not fit this host. */
  facts(snapshotDir: string): Promise<SnapshotFacts | undefined>;
  /** The build caches that are kept, the one used last first. */
  buildCaches(): Promise<readonly BuildCache[]>;
  /** Removes them all; builds under way go on. Returns how many bytes that gave back. */
  dropBuildCaches(): Promise<number>;
  /** Boots the root disk, starts the app, waits until it is ready, seals. @throws BuildFailure, MachineError */
  seal(request: SealRequest, options: { signal?: AbortSignal }): Promise<SealedSnapshot>;
  /** Starts a new machine from a sealed snapshot: clock, seed and identity are set before it returns. @throws MachineError */
  launch(request: LaunchRequest, options: { signal?: AbortSignal }): Promise<Machine>;
  /**
   * Launches a machine without network, asks its app once, notes what it touched (`Machine.noteTouched`) and destroys it.
   * Absent: this engine reads nothing ahead. @throws MachineError
   */
  rehearse?(request: RehearseRequest, options: { signal?: AbortSignal }): Promise<void>;
  /**
   * Reads all parts of a sealed snapshot and compares their digests, unless that was done, so that the first launch need not.
   * Absent: launches read nothing anyway. @throws MachineError
   */
  prove?(snapshotDir: string): Promise<void>;
  /** Brings a suspended machine back. Once it ran, what was saved is void: overlay and old memory must never be joined. @throws MachineError */
  resume(request: ResumeRequest, options: { signal?: AbortSignal }): Promise<Machine>;
  /**
   * Takes over the live machine that an earlier server left under this id, its vCPUs running; undefined when there is none
   * that can be talked to. Absent: this engine cannot, and what is left is ended by `destroy`. @throws MachineError
   */
  adopt?(request: LaunchRequest, options: { signal?: AbortSignal }): Promise<Machine | undefined>;
  /**
   * Whether a complete suspended state of `id` is on disk from which no machine ran on. If so, whatever an earlier server
   * left beside it, process or folder, is ended and removed, so that a resume may follow.
   */
  isSuspended(id: string): Promise<boolean>;
  /** What a loss of power, or any end of the host, left of `id`; cheap where nothing was lost. */
  recall(id: string): Promise<Recalled>;
  /** Its checkpoints, if any, do not hold any more. */
  forgetCheckpoints(id: string): Promise<void>;
  /**
   * Replaces what a live machine may reach; connections the new policy refuses are cut. Nothing happens to an id without a
   * machine. @throws MachineError when the gateway could not be told: the old policy may still hold, try again
   */
  setEgress(id: string, egress: Egress): Promise<void>;
  /**
   * The kept flow log of a machine, oldest first; also after its end, while the log is kept. With `follow` it goes on until
   * the signal aborts. Ends without records for an unknown id.
   */
  flows(id: string, options: { follow?: boolean; signal?: AbortSignal }): AsyncIterable<FlowRecord>;
  /** Ends whatever process of `id` is left and deletes its folders. Idempotent; also for ids without a live machine. */
  destroy(id: string): Promise<void>;
  /** Calls `listener` when a sealed snapshot is found not to be as it was written: at a launch, or by the scrub. */
  onDamage(listener: (damage: SnapshotDamage) => void): Disposable;
  /** Whether a sealed snapshot can be launched on this host; reads its manifest only. */
  fit(snapshotDir: string): Promise<SnapshotFit>;
  /** Deletes a sealed snapshot's folder. Idempotent. */
  deleteSnapshot(snapshotDir: string): Promise<void>;
  /** From now on a machine that is disposed, or the engine, lets go of what runs instead of ending it: for a later server. */
  leave(): void;
  /** Ids that have a folder or process under this state folder, for the sweep at start. */
  residue(): Promise<readonly string[]>;
}
