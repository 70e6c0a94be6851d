/**
 * The server's wall clock, set while it runs: libfaketime gives it the host's plus what a file says, and leaves the clocks
 * nobody can set alone. Machines and the gateway are started without its environment and keep the host's.
 */
import { existsSync } from 'node:fs';
import { readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isAlive } from './processes.ts';

export interface WallClock {
  /** For the server's process. */
  readonly environment: Readonly<Record<string, string>>;
  /** From now on the server's clock is off by that much. */
  set(offsetSeconds: number): Promise<void>;
}

/** Where Debian's package puts it on the architectures we know. */
const LIBRARIES = ['x86_64-linux-gnu', 'aarch64-linux-gnu'].map(
  (triplet) => `/usr/lib/${triplet}/faketime/libfaketime.so.1`,
);

const SHARED_MEMORY = '/dev/shm';

/** What libfaketime leaves in shared memory of processes that were killed. */
export async function sweepSharedMemory(): Promise<void> {
  for (const name of await readdir(SHARED_MEMORY)) {
    const [, pid] = /^(?:faketime_shm|sem\.faketime_sem)_(\d+)$/.exec(name) ?? [];
    if (pid !== undefined && !isAlive(Number(pid))) await rm(join(SHARED_MEMORY, name), { force: true });
  }
}

/** Undefined on a host without libfaketime (Debian: `apt-get install libfaketime`). */
export async function wallClock(dir: string): Promise<WallClock | undefined> {
  const library = LIBRARIES.find((path) => existsSync(path));
  if (library === undefined) return undefined;
  const file = join(dir, 'wall-clock');
  const set = async (offsetSeconds: number) => {
    // Whole at any moment: it is read at every look at the clock.
    await writeFile(`${file}.new`, `${offsetSeconds < 0 ? '' : '+'}${offsetSeconds}\n`);
    await rename(`${file}.new`, file);
  };
  await set(0);
  const environment = {
    LD_PRELOAD: library,
    FAKETIME_TIMESTAMP_FILE: file,
    FAKETIME_NO_CACHE: '1',
    FAKETIME_DONT_FAKE_MONOTONIC: '1',
    NO_FAKE_STAT: '1',
  };
  return { environment, set };
}
