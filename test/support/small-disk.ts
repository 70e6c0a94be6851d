/** A small file system of its own, so that it can be filled without harm to the host. Needs root. */
import { execFile } from 'node:child_process';
import { mkdtemp, open, rm, statfs, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const exec = promisify(execFile);
/** Further from full with each attempt to fill it. */
const RETREAT_MIB = 4;

export interface SmallDisk extends AsyncDisposable {
  readonly dir: string;
  /** On the host's own disk, for what must be written while this one is full. */
  readonly besides: string;
  /** Leaves about that much free space. */
  fill(leaveMiB: number): Promise<void>;
  free(): Promise<void>;
}

export async function smallDisk(sizeMiB: number): Promise<SmallDisk> {
  await using stack = new AsyncDisposableStack();
  const base = await mkdtemp(join(tmpdir(), 'rekindle-chaos-'));
  stack.defer(() => rm(base, { recursive: true, force: true }));
  const image = join(base, 'disk.img');
  await using file = await open(image, 'wx');
  await file.truncate(sizeMiB * 1024 ** 2);
  await exec('mkfs.ext4', ['-q', '-m', '0', '-F', image]);
  const dir = join(base, 'mnt');
  await exec('mkdir', [dir]);
  await exec('mount', ['-o', 'loop', image, dir]);
  stack.defer(async () => void (await exec('umount', ['-l', dir])));
  const ballast = join(dir, 'ballast');
  const owned = stack.move();
  return {
    dir,
    besides: base,
    fill: async (leaveMiB) => {
      // Others write meanwhile: what was free a moment ago may not be.
      for (let leave = leaveMiB; ; leave += RETREAT_MIB) {
        const { bavail, bsize } = await statfs(dir);
        const bytes = bavail * bsize - leave * 1024 ** 2;
        if (bytes <= 0) return;
        const done = await exec('fallocate', ['-l', `${bytes}`, ballast]).catch(() => undefined);
        if (done !== undefined) return;
      }
    },
    free: async () => {
      await truncate(ballast, 0).catch(() => {});
      await rm(ballast, { force: true });
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
