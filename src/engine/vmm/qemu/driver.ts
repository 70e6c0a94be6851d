/**
 * QEMU as a driver: one detached process group per VM, told what to do over a socket pair it inherits, so nothing has to
 * be polled while it starts. A second control socket in the run folder serves a later server.
 */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import type { FileHandle } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { constants } from 'node:os';
import path from 'node:path';
import type { Duplex, Readable } from 'node:stream';
import { MachineError, sleep, withDeadline } from '../../../lib/index.ts';
import type { ExchangeFolder } from '../../jail/exchange-folder.ts';
import type { Jail, Jailed } from '../../jail/jail.ts';
import {
  type ChangedMemory,
  type LinkState,
  linkOf,
  type Vmm,
  type VmmConfig,
  type VmmDriver,
  type VmmExit,
  type VmmLeft,
} from '../vmm.ts';
import { AdoptedProcess } from './adopted-process.ts';
import { changedMemoryOf } from './changed-memory.ts';
import {
  CONSOLE_SOCKET,
  commandLine,
  cpuModel,
  DEVICES_GENERATION,
  LINK_SOCKET,
  MACHINE_TYPE,
  NIC_ID,
  QMP_SOCKET,
} from './command-line.ts';
import { diskKeys } from './disk-keys.ts';
import { Qmp, type QmpCommand } from './qmp.ts';
import { CONSOLE_LOG, Tail, VMM_LOG } from './tail.ts';

/** From fork to the first answer; 25 ms on a quiet host, seconds when many start at once. */
const START_TIMEOUT_MS = 30_000;
/** A killed process that is still there after this is stuck in the kernel. */
const END_TIMEOUT_MS = 5000;
/** Device state passes through the VMM's working folder; 42 kB with all devices. */
const INCOMING = 'incoming';
const OUTGOING = 'outgoing';
const STATE_LIMIT_BYTES = 64 * 1024 * 1024;
/** Until one that takes no connection is asked again. */
const BUSY_PAUSE_MS = 100;
const CONSOLE_TIMEOUT_MS = 5000;
/** Who waits for one that stands still gives up before, by a signal. */
const SILENCE_TIMEOUT_MS = 600_000;
/** Its last words may come a moment after its end. */
const LAST_WORDS_MS = 100;

export interface QemuDriverOptions {
  readonly version: string;
  readonly accelerator: 'kvm' | 'tcg';
  /** False on hosts that forbid ptrace. */
  readonly deltaSave: boolean;
  readonly jail: Jail;
}

export function qemuDriver(options: QemuDriverOptions): VmmDriver {
  const { version, accelerator, deltaSave } = options;
  return {
    name: 'qemu',
    version,
    accelerator,
    machine: { type: MACHINE_TYPE, cpuModel: cpuModel(accelerator), devices: DEVICES_GENERATION },
    capabilities: { deltaSave },
    start: (config, { signal }) => startQemu(config, options, signal),
    adopt: (left, how) => adoptQemu(left, options, how),
  };
}

async function startQemu(config: VmmConfig, options: QemuDriverOptions, signal: AbortSignal | undefined): Promise<Vmm> {
  signal?.throwIfAborted();
  await using stack = new AsyncDisposableStack();
  const handed = config.disks.flatMap(diskKeys).map(({ file, passphrase }) => ({ name: file, text: passphrase }));
  const jailed = stack.use(
    await options.jail.start(config, (inside) => commandLine(inside, options.accelerator), { handed }),
  );
  const process = stack.use(new QemuProcess(jailed, config.runDir));
  const qmp = new Qmp(jailed.child.stdio[3] as Duplex);
  stack.defer(() => qmp.close(new MachineError('exited', 'the VMM was ended')));
  void process.exited.then((exit) => qmp.close(new MachineError('exited', exit.message, { evidence: exit.evidence })));
  const pid = await jailed.pid;
  if (pid === undefined) throw await process.failure();
  process.owns(pid);
  const { path: ramPath, sharing } = config.ram;
  const memory = options.deltaSave && sharing === 'private' ? changedMemoryOf(pid, ramPath) : undefined;
  const vmm = new QemuVmm({ process, qmp, jailed, memory, link: linkOf(config.network) });
  await vmm.negotiate(signal);
  // The machine is built, so its disks are open.
  await Promise.all(handed.map(({ name }) => jailed.folder.takeBack(name)));
  await jailed.settle();
  process.reads(await openConsole(jailed.folder));
  stack.use(await vmm.openLink());
  if (config.boot !== 'restore') await vmm.continue();
  return vmm.owning(stack.move());
}

async function adoptQemu(
  { id, runDir, ram, hasOwnRam, overlay, limits }: VmmLeft,
  { jail, deltaSave }: QemuDriverOptions,
  { signal, leaving }: Parameters<VmmDriver['adopt']>[1],
): ReturnType<VmmDriver['adopt']> {
  const left = await jail.adopt({ id, runDir, limits, written: hasOwnRam ? [overlay, ram] : [overlay] });
  if (left === undefined) return undefined;
  await using stack = new AsyncDisposableStack();
  stack.use(left);
  let vmm: QemuVmm | undefined;
  try {
    const control = await reached(left.folder, QMP_SOCKET, signal);
    const process = stack.use(new AdoptedProcess(left.record, runDir, control));
    const qmp = new Qmp(control);
    stack.defer(() => qmp.close(new MachineError('exited', 'the VMM was ended')));
    void process.exited.then((exit) =>
      qmp.close(new MachineError('exited', exit.message, { evidence: exit.evidence })),
    );
    const memory = deltaSave && !hasOwnRam ? changedMemoryOf(process.pid, ram) : undefined;
    vmm = new QemuVmm({ process, qmp, jailed: left, memory, link: 'up' });
    const status = await vmm.takeOver(signal);
    // Without its guest's last words it serves all the same.
    const console = await openConsole(left.folder).catch(() => undefined);
    if (console !== undefined) process.reads(console);
    stack.use(await vmm.openLink());
    return { vmm: vmm.owning(stack.move()), status };
  } catch (error) {
    if (leaving.aborted) {
      vmm?.letGo();
      stack.move();
    }
    throw error;
  }
}

/** Connects to a socket of the VMM's. */
async function reached(folder: ExchangeFolder, name: string, signal: AbortSignal | undefined): Promise<Socket> {
  for (;;) {
    await using handle = await folder.socket(name);
    const socket = connect(`/proc/self/fd/${handle.fd}`);
    try {
      await connected(socket);
      return socket;
    } catch (error) {
      // One that stands still takes nobody once two wait, servers that are gone among them.
      if (!isBusy(error)) throw error;
      await sleep(BUSY_PAUSE_MS, { signal });
    }
  }
}

function isBusy(error: unknown): boolean {
  const cause = error instanceof MachineError ? (error.cause as NodeJS.ErrnoException | undefined) : undefined;
  return cause?.code === 'EAGAIN';
}

/** From now on the guest's output comes here: whatever it prints while nobody is connected is lost. */
async function openConsole(folder: ExchangeFolder): Promise<Socket> {
  return (await reached(folder, CONSOLE_SOCKET, AbortSignal.timeout(CONSOLE_TIMEOUT_MS))).unref();
}

function connected(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', (cause) => reject(new MachineError('exited', 'the VMM cannot be reached', { cause })));
  });
}

/** What is needed of the process, whoever started it. Disposing kills it and waits until it is gone. */
export interface VmmProcess extends AsyncDisposable {
  readonly pid: number;
  readonly exited: Promise<ProcessEnd>;
  evidence(): string;
  /** Nothing of this server's holds or watches it any more. */
  letGo(): void;
}

export type ProcessEnd = Omit<VmmExit, 'byGuest'>;

interface QemuParts {
  readonly process: VmmProcess;
  readonly qmp: Qmp;
  readonly jailed: Pick<Jailed, 'folder' | 'calm'>;
  readonly memory: ChangedMemory | undefined;
  /** Of the NIC once the guest runs. */
  readonly link: LinkState;
}

class QemuVmm implements Vmm {
  readonly pid: number;
  linkSocketPath = '';
  readonly exited: Promise<VmmExit>;
  readonly changedMemory: ChangedMemory | undefined;
  readonly #process: VmmProcess;
  readonly #qmp: Qmp;
  readonly #link: LinkState;
  readonly #jailed: QemuParts['jailed'];
  #owned: AsyncDisposableStack | undefined;

  constructor({ process, qmp, jailed, memory, link }: QemuParts) {
    this.#jailed = jailed;
    this.#process = process;
    this.#qmp = qmp;
    this.#link = link;
    this.pid = process.pid;
    let byGuest = false;
    const left = qmp.event('SHUTDOWN', ({ guest }) => guest === true);
    left.then(() => (byGuest = true)).catch(() => {});
    this.exited = process.exited.then((end) => ({ ...end, byGuest }));
    this.changedMemory = memory;
  }

  owning(stack: AsyncDisposableStack): this {
    this.#owned = stack;
    return this;
  }

  /** The path leads to the socket for as long as the handle is open. */
  async openLink(): Promise<FileHandle> {
    const handle = await this.#jailed.folder.socket(LINK_SOCKET);
    this.linkSocketPath = `/proc/self/fd/${handle.fd}`;
    return handle;
  }

  /** The first command must be `qmp_capabilities`; its answer also says that the machine is built. */
  async negotiate(signal: AbortSignal | undefined): Promise<void> {
    const aborted = Promise.withResolvers<never>();
    aborted.promise.catch(() => {});
    const onAbort = () => aborted.reject(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    const timer = setTimeout(
      () => aborted.reject(new MachineError('timeout', 'the VMM did not start', { evidence: this.evidence() })),
      START_TIMEOUT_MS,
    );
    try {
      await Promise.race([this.#qmp.executeAll([['qmp_capabilities'], setLink(this.#link)]), aborted.promise]);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** The same at the second control socket; says what the guest does. One that stands still answers when it goes on. */
  async takeOver(signal: AbortSignal | undefined): Promise<'running' | 'paused' | 'fresh'> {
    const ask = () => this.#qmp.executeAll([['qmp_capabilities'], ['query-status']], SILENCE_TIMEOUT_MS);
    const answer = await withDeadline('the answer of the VMM', SILENCE_TIMEOUT_MS, ask, { signal });
    const status = typeof answer === 'object' && answer !== null && 'status' in answer ? answer.status : undefined;
    if (status === 'running') return status;
    return status === 'inmigrate' || status === 'prelaunch' ? 'fresh' : 'paused';
  }

  async restore(statePath: string, beforeRun?: () => Promise<void>): Promise<void> {
    await this.#jailed.folder.putIn(statePath, INCOMING);
    const loaded = this.#qmp.event('MIGRATION', ({ status }) => status === 'completed');
    await this.#qmp.executeAll([
      ['migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] }],
      // Nobody needs to hear where a machine with an address of its own segment has gone.
      ['migrate-set-parameters', { 'announce-rounds': 0 }],
      ['migrate-incoming', { uri: `file:${INCOMING}` }],
    ]);
    await loaded;
    await beforeRun?.();
    // The state brought the link of the snapshot along.
    const running = this.#qmp.event('RESUME');
    await this.#qmp.executeAll([setLink(this.#link), ['cont']]);
    await running;
  }

  async pause(): Promise<void> {
    await this.#qmp.execute('stop');
  }

  async continue(): Promise<void> {
    await this.#qmp.execute('cont');
  }

  async setLink(state: LinkState): Promise<void> {
    await this.#qmp.executeAll([setLink(state)]);
  }

  async saveState(statePath: string): Promise<void> {
    await this.#jailed.folder.prepare(OUTGOING);
    await this.#qmp.execute('xen-save-devices-state', { filename: OUTGOING, live: false });
    await this.#jailed.folder.takeOut(OUTGOING, statePath, STATE_LIMIT_BYTES);
  }

  calm(): void {
    this.#jailed.calm();
  }

  evidence(): string {
    return this.#process.evidence();
  }

  letGo(): void {
    this.#process.letGo();
    this.#qmp.close(new MachineError('exited', 'the machine was left to a later server'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned?.disposeAsync();
  }
}

function setLink(state: LinkState): QmpCommand {
  return ['set_link', { name: NIC_ID, up: state === 'up' }];
}

/** The process and its end. Disposing kills it, and waits until it is gone with all that started it. */
class QemuProcess implements VmmProcess {
  pid = 0;
  readonly exited: Promise<ProcessEnd>;
  readonly #child: ChildProcess;
  readonly #runDir: string;
  readonly #tails: Tail[];
  readonly #closed = Promise.withResolvers<ProcessEnd>();
  /** Its last words were read. */
  #consoleEnded: Promise<unknown> = Promise.resolve();
  #console: Socket | undefined;
  #isGone = false;
  #isKilled = false;

  constructor({ child }: Jailed, runDir: string) {
    this.#child = child;
    this.#runDir = runDir;
    this.#tails = [new Tail(child.stderr as Readable, path.join(runDir, VMM_LOG))];
    this.exited = this.#closed.promise;
    child.unref();
    child.once('error', (error) => this.#gone(`the VMM could not be started: ${error.message}`));
    const ended = (code: number | null, signal: string | null) => this.#gone(endOf(code, signal));
    child.once('close', (code, signal) => void this.#consoleEnded.then(() => ended(code, signal)));
    child.once('exit', (code, signal) => {
      if (this.#isKilled) ended(code, signal);
      else setTimeout(ended, LAST_WORDS_MS, code, signal);
    });
  }

  /** What started it has told which it is. */
  owns(pid: number): void {
    this.pid = pid;
  }

  reads(console: Socket): void {
    this.#console = console;
    this.#consoleEnded = once(console, 'close').catch(() => {});
    this.#tails.push(new Tail(console, path.join(this.#runDir, CONSOLE_LOG)));
  }

  async failure(): Promise<MachineError> {
    const { message, evidence } = await this.exited;
    return new MachineError('exited', message, { evidence });
  }

  evidence(): string {
    return this.#tails.flatMap((tail) => tail.lines()).join('\n');
  }

  letGo(): void {
    this.#isGone = true;
    for (const stream of this.#child.stdio) stream?.destroy();
    this.#console?.destroy();
    this.#child.unref();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isGone) return;
    // Whatever has to be on disk was written before: there is nothing to ask a VMM for at its end.
    this.#kill();
    const timer = setTimeout(() => this.#gone('the VMM does not die'), END_TIMEOUT_MS);
    await this.exited;
    clearTimeout(timer);
  }

  /** The VMM alone when it is known: what waits for it ends after it, and so tells when its memory is free again. */
  #kill(): void {
    this.#isKilled = true;
    const { pid } = this.#child;
    try {
      if (this.pid !== 0) process.kill(this.pid, 'SIGKILL');
      else if (pid !== undefined) process.kill(-pid, 'SIGKILL');
    } catch {
      // It is just ending.
    }
  }

  #gone(message: string): void {
    if (this.#isGone) return;
    this.#isGone = true;
    this.#console?.destroy();
    this.#closed.resolve({ message, evidence: this.evidence() });
  }
}

/** What waits for the VMM reports its signal as a shell does. */
function endOf(code: number | null, signal: string | null): string {
  const number = (code ?? 0) - 128;
  const name = signal ?? Object.entries(constants.signals).find(([, value]) => value === number)?.[0];
  return name === undefined ? `the VMM ended with code ${code}` : `the VMM was ended by ${name}`;
}
