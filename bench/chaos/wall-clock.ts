/**
 * The server's wall clock, set while it runs: libfaketime gives it the host's plus what a file says, and leaves the clocks
 * nobody can set alone. Machines and the gateway are started without its environment and keep the host's.
 */
import { existsSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

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
    // A killed process would leave its shared memory behind.
    FAKETIME_DISABLE_SHM: '1',
  };
  return { environment, set };
}
