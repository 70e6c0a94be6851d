/**
 * A VMM without a VM: the "guest" is the link's TypeScript agent in this process, its memory one JSON value kept as the RAM
 * file, its device state a file that must be whole. Behaves at the seam as QEMU does, for the contract and for tests of
 * what is built on it.
 */
import { type FileHandle, mkdir, open, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { serveTestAgent, type TestAgent } from '../../../guest/index.ts';
import { MachineError } from '../../../lib/index.ts';
import type { ChangedMemory, MemorySink, Vmm, VmmConfig, VmmDriver, VmmExit } from '../vmm.ts';

const STATE_TEXT = 'fake device state\n';

/** All a fake guest remembers: the secret of its link. */
interface GuestMemory {
  secret: string | undefined;
}

export interface FakeDriver extends VmmDriver {
  /** Ends a VMM from outside, as a crash would. */
  crash(vmm: Vmm): void;
}

export function fakeDriver(options: { deltaSave?: boolean } = {}): FakeDriver {
  const { deltaSave = true } = options;
  return {
    name: 'fake',
    version: '1',
    accelerator: 'tcg',
    machine: { type: 'fake', cpuModel: 'fake', devices: 'fake-1' },
    capabilities: { deltaSave },
    start: async (config, { signal }) => {
      signal?.throwIfAborted();
      const vmm = new FakeVmm(config, await openFolder(config), deltaSave);
      if (config.boot !== 'restore') await vmm.boot();
      return vmm;
    },
    // It lived in the process that started it.
    adopt: async () => undefined,
    crash: (vmm) => (vmm as FakeVmm).end('the VMM was ended by SIGKILL'),
  };
}

async function openFolder({ runDir, ram, boot }: VmmConfig): Promise<FileHandle> {
  try {
    if (boot === 'restore') await readFile(ram.path);
    else await mkdir(path.dirname(ram.path), { recursive: false }).catch(ignoreExisting);
    return await open(runDir, 'r');
  } catch (cause) {
    throw new MachineError('exited', 'the VMM ended with code 1', { evidence: String(cause), cause });
  }
}

function ignoreExisting(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EEXIST') throw error;
}

class FakeVmm implements Vmm {
  readonly pid = process.pid;
  readonly linkSocketPath: string;
  readonly exited: Promise<VmmExit>;
  readonly changedMemory: ChangedMemory | undefined;
  readonly #config: VmmConfig;
  readonly #folder: FileHandle;
  readonly #exit = Promise.withResolvers<VmmExit>();
  #memory: GuestMemory = { secret: undefined };
  #agent: TestAgent | undefined;
  #isPaused = false;
  #isOver = false;

  constructor(config: VmmConfig, folder: FileHandle, deltaSave: boolean) {
    this.#config = config;
    this.#folder = folder;
    this.linkSocketPath = `/proc/self/fd/${folder.fd}/link.sock`;
    this.exited = this.#exit.promise;
    this.changedMemory =
      deltaSave && config.ram.sharing === 'private'
        ? {
            save: (sink) => this.#saveChanges(sink),
            load: (chunks) => this.#loadChanges(chunks),
            touched: async () => [{ firstPage: 0, pages: 1 }],
          }
        : undefined;
  }

  async boot(): Promise<void> {
    await this.#run();
  }

  async restore(statePath: string, beforeRun?: () => Promise<void>): Promise<void> {
    if ((await readFile(statePath, 'utf8').catch(() => '')) !== STATE_TEXT) {
      this.end('the VMM ended with code 1');
      throw new MachineError('exited', 'the VMM ended with code 1', { evidence: 'load of migration failed' });
    }
    if (this.#memory.secret === undefined) await this.#loadMemory(this.#config.ram.path);
    await beforeRun?.();
    await this.#run();
  }

  async pause(): Promise<void> {
    this.#assertLive();
    this.#isPaused = true;
    this.#memory = { secret: this.#agent?.secret };
    await this.#agent?.[Symbol.asyncDispose]();
    if (this.#config.ram.sharing === 'shared') await writeFile(this.#config.ram.path, JSON.stringify(this.#memory));
  }

  async continue(): Promise<void> {
    this.#assertLive();
    await this.#run();
  }

  async setLink(): Promise<void> {
    this.#assertLive();
  }

  async saveState(file: string): Promise<void> {
    this.#assertLive();
    await writeFile(file, STATE_TEXT);
  }

  evidence(): string {
    return 'fake console';
  }

  /** It lives in this process and ends with it. */
  calm(): void {}

  letGo(): void {}

  end(message: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#exit.resolve({ byGuest: false, message, evidence: this.evidence() });
    void this.#agent?.[Symbol.asyncDispose]();
    void this.#folder.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#agent?.[Symbol.asyncDispose]();
    this.end('the VMM was ended by SIGKILL');
  }

  async #run(): Promise<void> {
    const { secret } = this.#memory;
    this.#isPaused = false;
    this.#agent = await serveTestAgent({
      socketPath: this.linkSocketPath,
      ...(secret === undefined ? {} : { secret }),
    });
  }

  async #saveChanges(sink: MemorySink): Promise<number> {
    assert(this.#isPaused, 'changed memory is saved while the VM is paused');
    const bytes = Buffer.from(JSON.stringify(this.#memory));
    await sink.write(bytes);
    return bytes.length;
  }

  async #loadChanges(chunks: AsyncIterable<Buffer>): Promise<void> {
    let text = '';
    for await (const chunk of chunks) text += chunk.toString();
    this.#memory = JSON.parse(text) as GuestMemory;
  }

  async #loadMemory(file: string): Promise<void> {
    this.#memory = JSON.parse(await readFile(file, 'utf8')) as GuestMemory;
  }

  #assertLive(): void {
    if (this.#isOver) throw new MachineError('exited', 'the VMM has ended');
  }
}

function assert(condition: boolean, message: string): void {
  if (!condition) throw new MachineError('failed', message);
}
