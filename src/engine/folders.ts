/**
 * Where the engine keeps things under one state folder. Only this file knows the layout.
 *
 * `microvms/<id>` outlives the process of a machine, `run/<id>` does not.
 */
import { mkdir, open, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { DomainError } from '../lib/index.ts';

export class Folders {
  readonly #stateDir: string;
  readonly #runParent: string;

  /** @param memoryDir for `run/`, when nothing of it may be on a disk */
  constructor(stateDir: string, memoryDir?: string) {
    this.#stateDir = path.resolve(stateDir);
    this.#runParent = memoryDir ?? this.#stateDir;
  }

  get runRoot(): string {
    return path.join(this.#runParent, 'run');
  }

  run(id: string): string {
    return path.join(this.runRoot, checked(id));
  }

  machine(id: string): string {
    return path.join(this.#stateDir, 'microvms', checked(id));
  }

  work(id: string): string {
    return path.join(this.#stateDir, 'builds', checked(id), 'engine');
  }

  get buildCaches(): string {
    return path.join(this.#stateDir, 'builder-cache');
  }

  /** Makes the private folder of a machine's sockets and logs anew. */
  async makeRun(id: string): Promise<string> {
    const dir = this.run(id);
    await rm(dir, { recursive: true, force: true });
    await mkdir(dir, { recursive: true, mode: 0o700 });
    return dir;
  }

  async ids(): Promise<string[]> {
    const names = await Promise.all(
      [this.runRoot, path.join(this.#stateDir, 'microvms')].map((dir) => readdir(dir).catch(() => [])),
    );
    return [...new Set(names.flat())];
  }
}

/** Ids become file names: nothing that leaves its folder may pass. */
function checked(id: string): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,200}$/.test(id)) throw new DomainError('INVALID', 'an id is no file name');
  return id;
}

export async function syncPath(file: string): Promise<void> {
  await using handle = await open(file, 'r');
  await handle.sync();
}

export function remove(dir: string): Promise<void> {
  return rm(dir, { recursive: true, force: true });
}
