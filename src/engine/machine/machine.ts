/**
 * One live machine: its VMM, its link, its files.
 *
 * Invariant: `exited` speaks only of ends nobody asked for. A suspend that fails leaves the machine running with a new link.
 */
import { existsSync } from 'node:fs';
import { mkdir, rename, stat, statfs } from 'node:fs/promises';
import type { Duplex } from 'node:stream';
import { type GuestLink, openLink } from '../../guest/index.ts';
import { MachineError, messageOf, withDeadline } from '../../lib/index.ts';
import type { Egress } from '../egress.ts';
import type {
  CheckpointReport,
  LogLine,
  Machine,
  MachineExit,
  RoleCredentials,
  Shell,
  SuspendReport,
  TerminalSize,
} from '../engine.ts';
import { remove, syncPath } from '../folders.ts';
import { MIN_FREE_DISK_MIB } from '../host/budget.ts';
import { linkFor } from '../network/network.ts';
import type { DataKey } from '../snapshot/encryption.ts';
import type { Manifest } from '../snapshot/manifest.ts';
import type { ChangedMemory, Vmm, VmmNetwork } from '../vmm/vmm.ts';
import { beginCheckpoint, publishCheckpoint } from './checkpoints.ts';
import type { EngineContext } from './context.ts';
import { GuestCredentials } from './guest-credentials.ts';
import { voidSaved } from './last-boot.ts';
import { TouchNotes } from './rehearsal.ts';
import type { Restored } from './restore.ts';
import type { MachineFiles } from './saved.ts';
import { capture, type SavedMachine, saveAll } from './saving.ts';

/** The link gives up on an agent that is silent much sooner: who waits for so long waits for a guest that is slow. */
const CONNECT_TIMEOUT_MS = 60_000;
const SUSPEND_TIMEOUT_MS = 300_000;
const CLOCK_TIMEOUT_MS = 10_000;
/** After a launch and a resume the guest's clock may be off by 50 ms. */
const CLOCK_OFF_MS = 40;
const CLOCK_ATTEMPTS = 5;
const REOPEN_TIMEOUT_MS = 30_000;
/** The guest's first moments belong to the request that waits for it; its end is watched a little later. */
const WATCH_DELAY_MS = 250;
/** Of the guest, while what is to be kept of it is taken. */
const LONGEST_PAUSE_MS = 5000;
/** From the link's end to the VMM's. */
const VMM_END_MS = 500;

export interface MachineParts {
  readonly id: string;
  readonly snapshotDir: string;
  readonly manifest: Manifest;
  readonly files: MachineFiles;
  /** Of all it writes to the disk, when that is encrypted. */
  readonly key: DataKey | undefined;
  readonly restored: Restored;
  readonly network: VmmNetwork;
  /** Disposes VMM, link and run folder. */
  readonly owned: AsyncDisposableStack;
  /** An earlier server started it. */
  readonly isAdopted?: boolean;
  /** Its guest ran on all the time. */
  readonly isClockRight?: boolean;
}

export class RunningMachine implements Machine {
  readonly id: string;
  readonly pid: number;
  readonly exited: Promise<MachineExit>;
  /** Resolves once the guest's clock is right, or cannot be set. */
  readonly clockCorrected: Promise<void>;
  readonly #context: EngineContext;
  readonly #parts: MachineParts;
  readonly #vmm: Vmm;
  readonly #exit = Promise.withResolvers<MachineExit>();
  readonly #ended = Promise.withResolvers<void>();
  readonly #watch = new AbortController();
  readonly #watchTimer: NodeJS.Timeout;
  readonly #credentials: GuestCredentials;
  readonly #notes: TouchNotes;
  #link: GuestLink;
  #isEnding = false;
  #isDoomed = false;
  #isSuspending = false;
  /** The one under way. */
  #checkpoint: { readonly stop: AbortController; readonly done: Promise<unknown> } | undefined;

  constructor(context: EngineContext, parts: MachineParts) {
    const { vmm, link } = parts.restored;
    this.id = parts.id;
    this.pid = vmm.pid;
    this.exited = this.#exit.promise;
    this.#context = context;
    this.#parts = parts;
    this.#vmm = vmm;
    this.#link = link;
    this.#credentials = new GuestCredentials(
      () => this.#link,
      () => context.clock.now(),
      context.log.child({ microvmId: this.id }),
      { mayHold: parts.isAdopted ?? false },
    );
    const { snapshotDir, manifest } = parts;
    this.#notes = new TouchNotes(context, { snapshotDir, manifest, memory: vmm.changedMemory });
    this.clockCorrected = parts.isClockRight ? Promise.resolve() : this.#correctClock(link);
    if (parts.isAdopted === true) vmm.calm();
    this.#watchTimer = setTimeout(() => {
      vmm.calm();
      this.#watchApp(link);
    }, WATCH_DELAY_MS);
    this.#watchTimer.unref();
    void vmm.exited.then(({ byGuest, ...end }) => this.#vmmExited({ kind: byGuest ? 'guest' : 'vmm', ...end }));
    void link.closed.then((error) => this.#linkClosed(link, error));
  }

  /** Resolves when the machine is disposed, suspended or dead. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  async connect(port: number, options: { signal?: AbortSignal }): Promise<Duplex> {
    if (this.#isEnding) throw new MachineError('exited', `${this.id} is not running any more`);
    return this.#link.tunnel(port, { timeoutMs: CONNECT_TIMEOUT_MS, ...options });
  }

  async openShell(size: TerminalSize, options: { signal?: AbortSignal }): Promise<Shell> {
    if (this.#isEnding) throw new MachineError('exited', `${this.id} is not running any more`);
    return this.#link.shell(size, { timeoutMs: CONNECT_TIMEOUT_MS, ...options });
  }

  async setCredentials(credentials: RoleCredentials | null, options: { signal?: AbortSignal }): Promise<void> {
    if (this.#isEnding) throw new MachineError('exited', `${this.id} is not running any more`);
    return this.#credentials.set(credentials, options);
  }

  /** See `Engine.setEgress`. */
  async setEgress(egress: Egress): Promise<void> {
    if (this.#isEnding) return;
    const link = linkFor(egress);
    if (typeof this.#parts.network === 'string') {
      if (link === 'down') return;
      throw new MachineError('unsupported', `${this.id} was started without a network: suspend and resume it`);
    }
    await this.#context.network.update(this.id, egress);
    await this.#vmm.setLink(link);
  }

  noteTouched(): Promise<void> {
    return this.#notes.take();
  }

  async suspend(options: { signal?: AbortSignal }): Promise<SuspendReport> {
    if (this.#isEnding || this.#isSuspending) throw new MachineError('exited', `${this.id} is not running any more`);
    options.signal?.throwIfAborted();
    const startedAt = performance.now();
    this.#isSuspending = true;
    try {
      await this.#stopCheckpoint();
      const deltaBytes = await withDeadline('suspending', SUSPEND_TIMEOUT_MS, () => this.#save(options.signal));
      await this[Symbol.asyncDispose]();
      return { deltaBytes, tookMs: performance.now() - startedAt };
    } finally {
      this.#isSuspending = false;
      this.#credentials.allow();
    }
  }

  /** See `Machine.checkpoint`. */
  async checkpoint(options: { signal?: AbortSignal }): Promise<CheckpointReport> {
    if (this.#isEnding || this.#isSuspending || this.#checkpoint !== undefined) {
      throw new MachineError('exited', `${this.id} is not running any more, or its checkpoint is being taken`);
    }
    options.signal?.throwIfAborted();
    const { changedMemory } = this.#vmm;
    if (changedMemory === undefined) {
      throw new MachineError('unsupported', 'this host forbids reading the memory of the VMM; see `rekindle doctor`');
    }
    const stop = new AbortController();
    const signal = options.signal === undefined ? stop.signal : AbortSignal.any([options.signal, stop.signal]);
    const done = this.#takeCheckpoint(changedMemory, signal).finally(() => {
      this.#checkpoint = undefined;
      if (!this.#isSuspending) this.#credentials.allow();
    });
    this.#checkpoint = { stop, done };
    return done;
  }

  async *logs(options: { cursor?: number; follow?: boolean; signal?: AbortSignal }): AsyncIterable<LogLine> {
    yield* this.#link.logs(options);
  }

  /** Ends it also when machines are to outlive this server: nothing of it is left for the next one. */
  async destroy(): Promise<void> {
    this.#isDoomed = true;
    await this[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isEnding = true;
    clearTimeout(this.#watchTimer);
    this.#watch.abort();
    // What was just saved must not run on.
    if (this.#context.leaving.aborted && !this.#isSuspending && !this.#isDoomed) {
      await this.#stopCheckpoint();
      this.#vmm.letGo();
    } else await this.#parts.owned.disposeAsync();
    await this.#stopCheckpoint();
    await this.#link[Symbol.asyncDispose]();
    this.#ended.resolve();
  }

  /** Withdraws credentials, pauses and writes everything; when that fails the machine goes on. */
  async #save(signal: AbortSignal | undefined): Promise<number> {
    const { files } = this.#parts;
    const draft = `${files.delta}.draft`;
    try {
      // Unconfirmed, they might be in what is saved.
      await this.#credentials.withdraw({ signal });
      await this.#link[Symbol.asyncDispose]();
      await remove(draft);
      await mkdir(draft, { mode: 0o700 });
      await this.#vmm.pause();
      const deltaBytes = await saveAll(this.#context, this.#saved, draft);
      signal?.throwIfAborted();
      await this.#publish(draft);
      return deltaBytes;
    } catch (error) {
      await this.#link[Symbol.asyncDispose]();
      await this.#goOn(error);
      await remove(draft).catch(() => {});
      throw error;
    }
  }

  async #takeCheckpoint(memory: ChangedMemory, signal: AbortSignal): Promise<CheckpointReport> {
    const { files } = this.#parts;
    const maxBytes = await roomFor(files);
    const draft = await beginCheckpoint(files);
    try {
      await this.#credentials.withdraw({ signal });
      const startedAt = performance.now();
      await using captured = await this.#whilePaused(() => {
        const bounds = { maxBytes, signal: AbortSignal.any([signal, tooLong()]) };
        return capture(this.#context, this.#saved, memory, draft, bounds);
      });
      const pausedMs = performance.now() - startedAt;
      this.#credentials.allow();
      await captured.complete();
      signal.throwIfAborted();
      await publishCheckpoint(files, draft);
      return { deltaBytes: captured.deltaBytes, pausedMs };
    } catch (error) {
      await remove(draft).catch(() => {});
      throw error;
    }
  }

  /** Whatever comes of `work`, the guest goes on, or it is over. */
  async #whilePaused<T>(work: () => Promise<T>): Promise<T> {
    try {
      await this.#vmm.pause();
      return await work();
    } finally {
      await this.#vmm.continue().catch((error: unknown) => {
        this.#vmmExited({ kind: 'vmm', message: messageOf(error), evidence: this.#vmm.evidence() });
        throw error;
      });
      // It stood still meanwhile.
      void this.#correctClock(this.#link);
    }
  }

  get #saved(): SavedMachine {
    const { id, manifest, files, key, restored } = this.#parts;
    return { id, manifest, files, key, vmm: this.#vmm, secret: restored.secret };
  }

  /** From here on the machine counts as suspended: everything is on disk under its final name. */
  async #publish(draft: string): Promise<void> {
    const { files } = this.#parts;
    await syncPath(draft);
    await remove(files.delta);
    await rename(draft, files.delta);
    await syncPath(files.dir);
    // They are older, and a suspended state comes before them anyway.
    await remove(files.checkpoints).catch(() => {});
  }

  /** It ends soon, and nothing of it works any more then. */
  async #stopCheckpoint(): Promise<void> {
    this.#checkpoint?.stop.abort(new MachineError('exited', 'the checkpoint is not wanted any more'));
    await this.#checkpoint?.done.catch(() => {});
  }

  /** What failed may have been the last flush: the guest goes on only when nothing is there that it would run on from. */
  async #unpublish(): Promise<void> {
    const { files } = this.#parts;
    if (!existsSync(files.saved)) return;
    await voidSaved(files);
    await remove(files.delta);
  }

  /** After a suspend that failed: the vCPUs run again and a new link is opened, or the machine is over. */
  async #goOn(reason: unknown): Promise<void> {
    try {
      await this.#unpublish();
      await this.#vmm.continue();
      const link = await openLink({
        socketPath: this.#vmm.linkSocketPath,
        secret: this.#parts.restored.secret,
        timeoutMs: REOPEN_TIMEOUT_MS,
      });
      this.#link = link;
      this.#parts.owned.use(link);
      this.#watchApp(link);
      void link.closed.then((error) => this.#linkClosed(link, error));
      this.#context.log.warn({ microvmId: this.id, reason: messageOf(reason) }, 'suspend failed, the machine goes on');
    } catch (error) {
      this.#vmmExited({ kind: 'vmm', message: messageOf(error), evidence: this.#vmm.evidence() });
    }
  }

  /** The preamble's clock is as old as the guest took to run its first instructions. Never rejects. */
  async #correctClock(link: GuestLink): Promise<void> {
    const { clock, log } = this.#context;
    try {
      for (let attempt = 0; attempt < CLOCK_ATTEMPTS; attempt++) {
        const askedMs = clock.monotonicMs();
        await link.setClock(() => clock.now(), { timeoutMs: CLOCK_TIMEOUT_MS, signal: this.#watch.signal });
        // It is off by at most the time this took; on a busy host that may be long.
        if (clock.monotonicMs() - askedMs <= CLOCK_OFF_MS) return;
      }
    } catch (error) {
      if (!this.#isEnding) log.warn({ microvmId: this.id, error: messageOf(error) }, 'clock not corrected');
    }
  }

  #watchApp(link: GuestLink): void {
    if (this.#isEnding) return;
    link.waitApp({ signal: this.#watch.signal }).then(
      ({ exitCode }) => {
        if (this.#isEnding || link !== this.#link) return;
        this.#logLastWords(exitCode);
        this.#exit.resolve({ kind: 'app', exitCode });
      },
      // A link that breaks says so by `closed`.
      () => {},
    );
  }

  /** Of a guest that ended an app of its own accord, for want of memory, only its console tells. */
  #logLastWords(exitCode: number): void {
    const evidence = this.#vmm.evidence();
    if (exitCode === 0 || evidence === '') return;
    this.#context.log.info({ microvmId: this.id, exitCode, evidence }, 'app failed, last of its console');
  }

  #linkClosed(link: GuestLink, error: Error): void {
    const isOurs = () => this.#isEnding || this.#isSuspending || link !== this.#link;
    if (isOurs()) return;
    const tell = () => {
      const evidence = this.#vmm.evidence();
      this.#exit.resolve({ kind: 'vmm', message: `the link to the guest is gone: ${error.message}`, evidence });
    };
    // The link of a VMM that ends breaks first; its end says more.
    setTimeout(() => !isOurs() && tell(), VMM_END_MS).unref();
  }

  #vmmExited(exit: MachineExit): void {
    if (this.#isEnding) return;
    this.#exit.resolve(exit);
    this[Symbol.asyncDispose]().catch(() => {});
  }
}

/** A guest that changes so much is not held up for longer. */
function tooLong(): AbortSignal {
  const stop = new AbortController();
  const error = new MachineError('timeout', `it changed more than can be taken in ${LONGEST_PAUSE_MS / 1000} s`);
  setTimeout(() => stop.abort(error), LONGEST_PAUSE_MS).unref();
  return stop.signal;
}

/** How many bytes of memory may be written beside a copy of the overlay. @throws MachineError `failed` */
async function roomFor(files: MachineFiles): Promise<number> {
  const [{ bavail, bsize }, { blocks }] = await Promise.all([statfs(files.dir), stat(files.overlay)]);
  const bytes = bavail * bsize - blocks * 512 - MIN_FREE_DISK_MIB * 2 ** 20;
  if (bytes <= 0) throw new MachineError('failed', 'too little disk is free');
  return bytes;
}
