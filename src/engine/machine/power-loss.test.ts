/**
 * What is on the disk after a loss of power, on a file system of its own: a copy of its device, taken while it is mounted, holds
 * what was flushed and nothing that only the kernel knows yet.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { beginCheckpoint, forgetCheckpoints, keepAsCheckpoint, publishCheckpoint } from './checkpoints.ts';
import { noteBoot, recall, voidSaved } from './last-boot.ts';
import { type MachineFiles, machineFiles, OVERLAY_NAME, SAVED_NAME } from './saved.ts';

const exec = promisify(execFile);
const SIZE_BYTES = 16 * 2 ** 20;

class Disk implements AsyncDisposable {
  readonly files: MachineFiles;
  readonly #base: string;
  readonly #image: string;

  private constructor(base: string, image: string, dir: string) {
    this.#base = base;
    this.#image = image;
    this.files = machineFiles(path.join(dir, 'microvms', 'vm'));
  }

  static async make(): Promise<Disk> {
    const base = await mkdtemp(path.join(tmpdir(), 'rk-power-'));
    try {
      const image = path.join(base, 'disk');
      await writeFile(image, '');
      await truncate(image, SIZE_BYTES);
      await exec('mkfs.ext4', ['-q', '-F', image]);
      const disk = await Disk.#mount(base, image);
      await mkdir(disk.files.dir, { recursive: true });
      await exec('sync', ['-f', disk.files.dir]);
      return disk;
    } catch (error) {
      await rm(base, { recursive: true, force: true });
      throw error;
    }
  }

  static async #mount(base: string, image: string): Promise<Disk> {
    const dir = path.join(base, 'mounted');
    await mkdir(dir);
    // Nothing reaches the disk by itself while a test lasts.
    await exec('mount', ['-o', 'loop,commit=300', image, dir]);
    return new Disk(base, image, dir);
  }

  /** The same disk as the next boot finds it. */
  async afterLoss(): Promise<Disk> {
    const base = await mkdtemp(path.join(tmpdir(), 'rk-power-'));
    const image = path.join(base, 'disk');
    await exec('cp', [this.#image, image]);
    return Disk.#mount(base, image);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await exec('umount', [path.join(this.#base, 'mounted')]);
    await rm(this.#base, { recursive: true, force: true });
  }
}

/** A machine that ran in `boot-1` and is suspended, all of it flushed. */
async function suspended(): Promise<Disk> {
  const disk = await Disk.make();
  const { files } = disk;
  await mkdir(files.delta);
  await writeFile(files.saved, 'asleep');
  await writeFile(files.overlay, 'asleep');
  await noteBoot(files, 'boot-1');
  await exec('sync', ['-f', files.dir]);
  return disk;
}

async function checkpoint(files: MachineFiles, text: string): Promise<void> {
  const draft = await beginCheckpoint(files);
  for (const name of [SAVED_NAME, OVERLAY_NAME]) await writeFile(path.join(draft, name), text, { flush: true });
  await publishCheckpoint(files, draft);
}

const skip = await cannotMount();

test('what was not flushed is lost, which is what the cases below stand on', { skip }, async () => {
  await using disk = await suspended();
  await rename(disk.files.saved, disk.files.voided);
  await using after = await disk.afterLoss();
  assert.ok(existsSync(after.files.saved));
});

test('a saved state that was run on from does not come back', { skip }, async () => {
  await using disk = await suspended();
  await noteBoot(disk.files, 'boot-2');
  await voidSaved(disk.files);
  await using after = await disk.afterLoss();
  assert.deepEqual(await recall(after.files, 'boot-3'), { kind: 'lost' });
});

test('one that was about to be run on from is whole', { skip }, async () => {
  await using disk = await suspended();
  await noteBoot(disk.files, 'boot-2');
  await using after = await disk.afterLoss();
  assert.equal((await recall(after.files, 'boot-3')).kind, 'suspended');
});

test('a machine that ran for the first time is known to have run', { skip }, async () => {
  await using disk = await Disk.make();
  await rm(disk.files.dir, { recursive: true });
  await exec('sync', ['-f', path.dirname(disk.files.dir)]);
  await mkdir(disk.files.dir);
  await noteBoot(disk.files, 'boot-1');
  await using after = await disk.afterLoss();
  assert.deepEqual(await recall(after.files, 'boot-1'), { kind: 'nothing' }, 'in its boot it may live');
  assert.deepEqual(await recall(after.files, 'boot-2'), { kind: 'lost' });
});

test('the newest whole checkpoint is what is left, also when power goes again while it is fetched', {
  skip,
}, async () => {
  await using disk = await suspended();
  const { files } = disk;
  await voidSaved(files);
  await checkpoint(files, 'first');
  await checkpoint(files, 'second');
  const draft = await beginCheckpoint(files);
  await writeFile(path.join(draft, SAVED_NAME), 'third', { flush: true });
  await writeFile(files.overlay, 'moved on', { flush: true });
  await using after = await disk.afterLoss();
  assert.equal((await recall(after.files, 'boot-2')).kind, 'checkpoint');
  await using again = await after.afterLoss();
  assert.match((await recall(again.files, 'boot-3')).kind, /^(checkpoint|suspended)$/);
  for (const { overlay, saved } of [after.files, again.files]) {
    assert.equal(await readFile(overlay, 'utf8'), 'second');
    assert.equal(await readFile(saved, 'utf8'), 'second');
  }
  assert.ok(!existsSync(after.files.checkpoints));
});

test('what a machine was resumed from is its checkpoint, and older ones never are', { skip }, async () => {
  await using disk = await suspended();
  const { files } = disk;
  await checkpoint(files, 'old');
  await writeFile(path.join(files.delta, OVERLAY_NAME), 'asleep', { flush: true });
  await keepAsCheckpoint(files);
  await writeFile(files.overlay, 'moved on', { flush: true });
  await using after = await disk.afterLoss();
  assert.equal((await recall(after.files, 'boot-2')).kind, 'checkpoint');
  assert.equal(await readFile(after.files.overlay, 'utf8'), 'asleep');
});

test('checkpoints that do not hold any more do not come back', { skip }, async () => {
  await using disk = await suspended();
  await checkpoint(disk.files, 'old');
  await forgetCheckpoints(disk.files);
  await voidSaved(disk.files);
  await using after = await disk.afterLoss();
  assert.deepEqual(await recall(after.files, 'boot-2'), { kind: 'lost' });
});

/** The reason, or false. */
async function cannotMount(): Promise<string | false> {
  if (process.getuid?.() !== 0) return 'only root may mount';
  try {
    await using _disk = await Disk.make();
    return false;
  } catch (error) {
    return `no file system can be made and mounted here: ${String(error).split('\n')[0]}`;
  }
}
