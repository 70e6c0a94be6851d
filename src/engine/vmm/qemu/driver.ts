/**
 * QEMU as a driver: one detached process group per VM, told what to do over a socket pair it inherits, so nothing has to
 * be polled while it starts. A second control socket in the run folder serves a later server.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import path from 'node:path';
import type { Duplex, Readable } from 'node:stream';
import { MachineError } from '../../../lib/index.ts';
import type { Runtime } from '../../runtime.ts';
import type { ChangedMemory, LinkState, Vmm, VmmConfig, VmmDriver, VmmExit } from '../vmm.ts';
import { changedMemoryOf } from './changed-memory.ts';
import {
  commandLine,
  cpuModel,
  DEVICES_GENERATION,
  LINK_SOCKET,
  linkOf,
  MACHINE_TYPE,
  NIC_ID,
} from './command-line.ts';
import { Qmp, type QmpCommand } from './qmp.ts';
import { Tail } from './tail.ts';

/** From fork to the first answer; 25 ms on a quiet host, seconds when many start at once. */
const START_TIMEOUT_MS = 30_000;
/** A killed process that is still there after this is stuck in the kernel. */
const END_TIMEOUT_MS = 5000;
/** Its last words may come a moment after its end. */
const LAST_WORDS_MS = 100;

export interface QemuDriverOptions {
  readonly qemu: Runtime['qemu'];
  readonly accelerator: 'kvm' | 'tcg';
  /** False on hosts that forbid ptrace. */
  readonly deltaSave: boolean;
}

export function qemuDriver(options: QemuDriverOptions): VmmDriver {
  const { qemu, accelerator, deltaSave } = options;
  return {
    name: 'qemu',
    version: qemu.version,
    accelerator,
    machine: { type: MACHINE_TYPE, cpuModel: cpuModel(accelerator), devices: DEVICES_GENERATION },
    capabilities: { deltaSave },
    start: (config, { signal }) => startQemu(config, options, signal),
  };
}

async function startQemu(config: VmmConfig, options: QemuDriverOptions, signal: AbortSignal | undefined): Promise<Vmm> {
  signal?.throwIfAborted();
  await using stack = new AsyncDisposableStack();
  // Reached through this handle, a socket's path is short however deep the state folder is.
  const folder = stack.use(await open(config.runDir, 'r'));
  const child = spawn(options.qemu.binary, commandLine(config, options.accelerator, options.qemu), {
    cwd: config.runDir,
    detached: true,
    // stderr, control and console: socket pairs, which QEMU outlives when this process dies.
    stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'],
  });
  const process = stack.use(new QemuProcess(child, config.runDir));
  const qmp = new Qmp(child.stdio[3] as Duplex);
  stack.defer(() => qmp.close(new MachineError('exited', 'the VMM was ended')));
  void process.exited.then((exit) => qmp.close(new MachineError('exited', exit.message, { evidence: exit.evidence })));
  if (child.pid === undefined) throw await process.failure();
  writePidFile(config.runDir, child.pid);
  const vmm = new QemuVmm(config, options.deltaSave, process, qmp, folder);
  await vmm.negotiate(signal);
  return vmm.owning(stack.move());
}

class QemuVmm implements Vmm {
  readonly pid: number;
  readonly linkSocketPath: string;
  readonly exited: Promise<VmmExit>;
  readonly changedMemory: ChangedMemory | undefined;
  readonly #process: QemuProcess;
  readonly #qmp: Qmp;
  readonly #link: LinkState;
  #owned: AsyncDisposableStack | undefined;

  constructor(config: VmmConfig, deltaSave: boolean, process: QemuProcess, qmp: Qmp, folder: FileHandle) {
    this.#process = process;
    this.#qmp = qmp;
    this.#link = linkOf(config.network);
    this.pid = process.pid;
    this.exited = process.exited;
    this.linkSocketPath = `/proc/self/fd/${folder.fd}/${LINK_SOCKET}`;
    const { path: ramPath, sharing } = config.ram;
    this.changedMemory = deltaSave && sharing === 'private' ? changedMemoryOf(process.pid, ramPath) : undefined;
  }

  owning(stack: AsyncDisposableStack): this {
    this.#owned = stack;
    return this;
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

  async restore(statePath: string): Promise<void> {
    const loaded = this.#qmp.event('MIGRATION', ({ status }) => status === 'completed');
    await this.#qmp.executeAll([
      ['migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] }],
      // Nobody needs to hear where a machine with an address of its own segment has gone.
      ['migrate-set-parameters', { 'announce-rounds': 0 }],
      ['migrate-incoming', { uri: `file:${statePath}` }],
    ]);
    await loaded;
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
    await this.#qmp.execute('xen-save-devices-state', { filename: statePath, live: false });
  }

  evidence(): string {
    return this.#process.evidence();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned?.disposeAsync();
  }
}

function setLink(state: LinkState): QmpCommand {
  return ['set_link', { name: NIC_ID, up: state === 'up' }];
}

/** The process and its end. Disposing kills the whole group and waits until it is gone. */
class QemuProcess implements AsyncDisposable {
  readonly pid: number;
  readonly exited: Promise<VmmExit>;
  readonly #child: ChildProcess;
  readonly #tails: readonly Tail[];
  readonly #closed = Promise.withResolvers<VmmExit>();
  #isGone = false;
  #isKilled = false;

  constructor(child: ChildProcess, runDir: string) {
    this.#child = child;
    this.#tails = [
      new Tail(child.stderr as Readable, path.join(runDir, 'vmm.log')),
      new Tail(child.stdio[4] as Readable, path.join(runDir, 'console.log')),
    ];
    this.pid = child.pid ?? 0;
    this.exited = this.#closed.promise;
    child.unref();
    child.once('error', (error) => this.#gone(`the VMM could not be started: ${error.message}`));
    const ended = (code: number | null, signal: string | null) =>
      this.#gone(signal === null ? `the VMM ended with code ${code}` : `the VMM was ended by ${signal}`);
    child.once('close', ended);
    child.once('exit', (code, signal) => {
      if (this.#isKilled) ended(code, signal);
      else setTimeout(ended, LAST_WORDS_MS, code, signal);
    });
  }

  async failure(): Promise<MachineError> {
    const { message, evidence } = await this.exited;
    return new MachineError('exited', message, { evidence });
  }

  evidence(): string {
    return this.#tails.flatMap((tail) => tail.lines()).join('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isGone) return;
    // Whatever has to be on disk was written before: there is nothing to ask a VMM for at its end.
    this.#kill();
    const timer = setTimeout(() => this.#gone('the VMM does not die'), END_TIMEOUT_MS);
    await this.exited;
    clearTimeout(timer);
  }

  #kill(): void {
    this.#isKilled = true;
    try {
      process.kill(-this.pid, 'SIGKILL');
    } catch {
      this.#child.kill('SIGKILL');
    }
  }

  #gone(message: string): void {
    if (this.#isGone) return;
    this.#isGone = true;
    this.#closed.resolve({ message, evidence: this.evidence() });
  }
}

/** Process id with its start time: a number alone may be another process's by now. */
function writePidFile(runDir: string, pid: number): void {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const startedAtTicks = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
  writeFileSync(path.join(runDir, 'pid.json'), JSON.stringify({ pid, startedAtTicks }), { mode: 0o600 });
}
