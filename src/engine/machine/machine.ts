/**
 * One live machine: its VMM, its link, its files.
 *
 * Invariant: `exited` speaks only of ends nobody asked for. A suspend that fails leaves the machine running with a new link.
 */
import { mkdir, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Duplex } from 'node:stream';
import { type GuestLink, openLink } from '../../guest/index.ts';
import { MachineError, messageOf, withDeadline } from '../../lib/index.ts';
import type { Egress } from '../egress.ts';
import type { LogLine, Machine, MachineExit, RoleCredentials, Shell, SuspendReport, TerminalSize } from '../engine.ts';
import { remove, syncPath } from '../folders.ts';
import { linkFor } from '../network/network.ts';
import { createChunkFile, type Guard } from '../snapshot/chunk-file.ts';
import { digestFile } from '../snapshot/digest.ts';
import type { DataKey } from '../snapshot/encryption.ts';
import type { Manifest, Part } from '../snapshot/manifest.ts';
import { encryptFile } from '../snapshot/whole-file.ts';
import type { ChangedMemory, Vmm, VmmNetwork } from '../vmm/vmm.ts';
import type { EngineContext } from './context.ts';
import { GuestCredentials } from './guest-credentials.ts';
import type { Restored } from './restore.ts';
import {
  digestOverlay,
  encodeSaved,
  type MachineFiles,
  MEMORY_NAME,
  memoryGuard,
  SAVED_NAME,
  type Saved,
  STATE_NAME,
} from './saved.ts';

const CONNECT_TIMEOUT_MS = 30_000;
const SUSPEND_TIMEOUT_MS = 300_000;
const CLOCK_TIMEOUT_MS = 10_000;
const REOPEN_TIMEOUT_MS = 30_000;
/** The guest's first moments belong to the request that waits for it; its end is watched a little later. */
const WATCH_DELAY_MS = 250;
/** From the link's end to the VMM's. */
const VMM_END_MS = 500;

export interface MachineParts {
  readonly id: string;
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
}

export class RunningMachine implements Machine {
  readonly id: string;
  readonly pid: number;
  readonly exited: Promise<MachineExit>;
  readonly #context: EngineContext;
  readonly #parts: MachineParts;
  readonly #vmm: Vmm;
  readonly #exit = Promise.withResolvers<MachineExit>();
  readonly #ended = Promise.withResolvers<void>();
  readonly #watch = new AbortController();
  readonly #watchTimer: NodeJS.Timeout;
  readonly #credentials: GuestCredentials;
  #link: GuestLink;
  #isEnding = false;
  #isSuspending = false;

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
    this.#correctClock(link);
    this.#watchTimer = setTimeout(() => this.#watchApp(link), WATCH_DELAY_MS);
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

  async suspend(options: { signal?: AbortSignal }): Promise<SuspendReport> {
    if (this.#isEnding || this.#isSuspending) throw new MachineError('exited', `${this.id} is not running any more`);
    options.signal?.throwIfAborted();
    const startedAt = performance.now();
    this.#isSuspending = true;
    try {
      const deltaBytes = await withDeadline('suspending', SUSPEND_TIMEOUT_MS, () => this.#save(options.signal));
      await this[Symbol.asyncDispose]();
      return { deltaBytes, tookMs: performance.now() - startedAt };
    } finally {
      this.#isSuspending = false;
      this.#credentials.allow();
    }
  }

  async *logs(options: { cursor?: number; follow?: boolean; signal?: AbortSignal }): AsyncIterable<LogLine> {
    yield* this.#link.logs(options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isEnding = true;
    clearTimeout(this.#watchTimer);
    this.#watch.abort();
    // What was just saved must not run on.
    if (this.#context.leaving.aborted && !this.#isSuspending) this.#vmm.letGo();
    else await this.#parts.owned.disposeAsync();
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
      const memory = this.#saveMemory(draft);
      const state = this.#saveState(draft);
      const facts = this.#saveFacts(draft, memory.facts, state);
      await allSettled([memory.deltaBytes, state, facts, syncPath(files.overlay)]);
      const deltaBytes = await memory.deltaBytes;
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

  /** What is recorded of a delta is known before it is written. */
  #saveMemory(draft: string): { facts: Promise<Saved['memory']>; deltaBytes: Promise<number> } {
    const { changedMemory } = this.#vmm;
    const fileId = this.#context.ids.bytes(16);
    if (changedMemory === undefined) {
      const facts = this.#saveRam();
      return { facts, deltaBytes: facts.then(() => 0) };
    }
    return {
      facts: Promise.resolve({ kind: 'delta', fileId: fileId.toString('hex') }),
      deltaBytes: saveDelta(changedMemory, path.join(draft, MEMORY_NAME), memoryGuard(this.#parts.key, fileId)),
    };
  }

  async #saveRam(): Promise<Saved['memory']> {
    const { ram } = this.#parts.files;
    await syncPath(ram);
    return { kind: 'ram', part: await digestFile(ram, { mapper: this.#context.runtime.qemu.img }) };
  }

  async #saveState(draft: string): Promise<SavedState> {
    const { key, id } = this.#parts;
    const { folders, ids, runtime } = this.#context;
    const file = path.join(draft, STATE_NAME);
    let stateId: string | null = null;
    if (key === undefined) {
      await this.#vmm.saveState(file);
      await syncPath(file);
    } else {
      const number = ids.bytes(16);
      stateId = number.toString('hex');
      const plain = path.join(folders.run(id), STATE_NAME);
      await this.#vmm.saveState(plain);
      await encryptFile(plain, file, key.forFile('state', number));
      await remove(plain);
    }
    return { state: await digestFile(file, { mapper: runtime.qemu.img }), stateId };
  }

  async #saveFacts(draft: string, memory: Promise<Saved['memory']>, state: Promise<SavedState>): Promise<void> {
    const { manifest, restored, files, key } = this.#parts;
    const overlay = digestOverlay(files.overlay, this.#context.runtime.qemu.img);
    overlay.catch(() => {});
    const saved: Saved = {
      generation: 3,
      base: manifest.parts.ram.sha256,
      secret: key === undefined ? restored.secret : key.sealText(restored.secret, 'link'),
      memory: await memory,
      ...(await state),
      overlay: await overlay,
    };
    const file = path.join(draft, SAVED_NAME);
    await writeFile(file, encodeSaved(saved), { mode: 0o600, flag: 'wx', flush: true });
  }

  /** From here on the machine counts as suspended: everything is on disk under its final name. */
  async #publish(draft: string): Promise<void> {
    const { files } = this.#parts;
    await syncPath(draft);
    await remove(files.delta);
    await rename(draft, files.delta);
    await syncPath(files.dir);
  }

  /** After a suspend that failed: the vCPUs run again and a new link is opened, or the machine is over. */
  async #goOn(reason: unknown): Promise<void> {
    try {
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

  /** The preamble's clock is as old as the guest took to run its first instructions. */
  #correctClock(link: GuestLink): void {
    link
      .setClock(() => this.#context.clock.now(), { timeoutMs: CLOCK_TIMEOUT_MS, signal: this.#watch.signal })
      .catch((error: unknown) => {
        if (!this.#isEnding)
          this.#context.log.warn({ microvmId: this.id, error: messageOf(error) }, 'clock not corrected');
      });
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

interface SavedState {
  readonly state: Part;
  readonly stateId: string | null;
}

async function saveDelta(memory: ChangedMemory, file: string, guard: Guard): Promise<number> {
  await using writer = await createChunkFile(file, guard);
  const deltaBytes = await memory.save(writer);
  await writer.finish();
  return deltaBytes;
}

/** Waits until none of them works any more, then throws the first failure. */
async function allSettled(works: readonly Promise<unknown>[]): Promise<void> {
  for (const outcome of await Promise.allSettled(works)) if (outcome.status === 'rejected') throw outcome.reason;
}
