/**
 * The builder machine's own snapshot and the cache disk every owner starts from, among what a host prepares: `snapshot/` and
 * `cache`.
 *
 * No disk but the root was opened before the snapshot, so any disk can be attached at launch. Owners' caches hold for the very
 * template they were begun on.
 */
import { existsSync } from 'node:fs';
import { chmod, link, mkdir, open, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { type Logger, MachineError, randomIds, systemClock } from '../../lib/index.ts';
import { copySparse } from '../disk/copy.ts';
import { Folders, remove, syncPath } from '../folders.ts';
import { probeHost } from '../host/host.ts';
import { openJail } from '../jail/open-jail.ts';
import { type Booted, mountRoot } from '../machine/boot.ts';
import { type EngineContext, SPARE_DISK_BYTES } from '../machine/context.ts';
import { guestShape } from '../machine/seal.ts';
import { runToSnapshot } from '../machine/to-snapshot.ts';
import { ensureWaitingGuest } from '../machine/waiting-guest.ts';
import { NO_NETWORK } from '../network/network.ts';
import { prepared, unlessThere } from '../prepared.ts';
import type { Runtime } from '../runtime.ts';
import { Integrity } from '../snapshot/integrity.ts';
import { ReadAhead } from '../snapshot/read-ahead.ts';
import { createDraft, sealDraft } from '../snapshot/seal.ts';
import { Vault } from '../snapshot/vault.ts';
import { qemuDriver } from '../vmm/qemu/driver.ts';
import { BUILD_PROGRAM, PROGRAM_ENV, startBuilder } from './builder-run.ts';
import { writeContextTar } from './context-tar.ts';

/** What a builder machine has, all of it guaranteed: its budget is that of a build. */
export const BUILDER_MEMORY_MIB = 2048;
const BUILDER_CPUS = 2;
/** What an image gets when its owner says nothing. */
const USUAL_MEMORY_MIB = 2048;
const PROGRAMS = [BUILD_PROGRAM, '/usr/bin/buildkitd', '/usr/bin/buildctl', '/usr/bin/crun'];
const READ_TIMEOUT_MS = 120_000;

export interface Builder {
  readonly snapshotDir: string;
  /** Raw cache disk with the base image unpacked; only read. */
  readonly cacheTemplate: string;
  /** Changes with anything either depends on. */
  readonly key: string;
}

export interface PrepareOptions {
  readonly runtime: Runtime;
  readonly cacheDir: string;
  readonly log: Logger;
  onProgress(line: string): void;
  readonly signal?: AbortSignal;
}

/** Makes the builder's snapshot and cache template unless they are there. For set-up; `Engine.build` does the same when needed. */
export async function prepareBuilder(options: PrepareOptions): Promise<void> {
  const { runtime, cacheDir, log, signal } = options;
  const host = await probeHost(runtime, cacheDir);
  const workDir = path.join(cacheDir, 'builder', 'work');
  await using jail = await openJail(runtime, workDir, host);
  const { accelerator } = host.report;
  const driver = qemuDriver({ version: runtime.qemu.version, accelerator, deltaSave: host.deltaSave, jail });
  const folders = new Folders(workDir);
  // Of a set-up that was killed; one set-up works at a time.
  for (const id of await folders.ids()) {
    await jail.end(id, folders.run(id));
    await remove(folders.run(id));
  }
  const context = {
    runtime,
    driver,
    host: host.report,
    folders,
    cacheDir,
    log,
    clock: systemClock,
    ids: randomIds,
    integrity: new Integrity({ mapper: runtime.qemu.img, clock: systemClock, log }),
    network: NO_NETWORK,
    readAhead: new ReadAhead({ clock: systemClock, log }),
    vault: new Vault({ memoryDir: undefined, clock: systemClock, log }),
    restoring: new Set<object>(),
    leaving: new AbortController().signal,
    erasesFreedMemory: false,
  };
  await ensureBuilder(context, options.onProgress, { signal });
  options.onProgress('booting a guest of the usual size once');
  await ensureWaitingGuest(context, guestShape(USUAL_MEMORY_MIB, host.report.cpus), { signal });
}

/** @throws MachineError */
export async function ensureBuilder(
  context: EngineContext,
  onProgress: (line: string) => void,
  options: { signal?: AbortSignal | undefined },
): Promise<Builder> {
  const { key, dir } = prepared(context);
  const builder: Builder = { key, snapshotDir: path.join(dir, 'snapshot'), cacheTemplate: path.join(dir, 'cache') };
  if (!existsSync(builder.snapshotDir)) {
    onProgress('booting the builder machine once');
    await makeSnapshot(context, builder.snapshotDir, options);
  }
  if (!existsSync(builder.cacheTemplate)) {
    onProgress('unpacking the base image into the build cache once');
    await makeTemplate(context, builder, options);
  }
  return builder;
}

function builderCpus(hostCpus: number): number {
  return Math.min(BUILDER_CPUS, hostCpus);
}

async function makeSnapshot(
  context: EngineContext,
  snapshotDir: string,
  options: { signal?: AbortSignal | undefined },
): Promise<void> {
  const { runtime, driver, host } = context;
  await using draft = await createDraft(snapshotDir);
  await copySparse(runtime.builder.disk, draft.disk, options.signal);
  const shape = { memoryMiB: BUILDER_MEMORY_MIB, cpus: builderCpus(host.cpus) };
  const id = `builder-${context.ids.uuid()}`;
  const sealed = await runToSnapshot(context, draft, { id, ...shape }, options, mountRoot, readPrograms);
  const facts = {
    ...shape,
    network: 'none' as const,
    link: sealed,
    container: null,
    built: null,
    runtimeStamp: runtime.stamp,
    kernelRelease: runtime.guest.kernelRelease,
  };
  await unlessThere(snapshotDir, () =>
    sealDraft(draft, snapshotDir, facts, { driver, mapper: runtime.qemu.img, signal: options.signal }),
  );
}

/** Every build runs them: in the page cache of the snapshot, they need not be read again through the emulated disk. */
async function readPrograms({ link }: Booted, signal: AbortSignal): Promise<void> {
  const argv = ['/bin/sh', '-c', `cat ${PROGRAMS.join(' ')} > /dev/null && crun --version > /dev/null`];
  const { exitCode } = await link.exec(
    { argv, env: PROGRAM_ENV, cwd: '/' },
    { onOutput: () => {}, timeoutMs: READ_TIMEOUT_MS, signal },
  );
  if (exitCode !== 0) throw new MachineError('failed', `the builder lacks a program (exit code ${exitCode})`);
}

/** Runs one step on the base on a blank cache disk and keeps the disk: only a step makes BuildKit unpack the base. */
async function makeTemplate(
  context: EngineContext,
  builder: Builder,
  options: { signal?: AbortSignal | undefined },
): Promise<void> {
  const { runtime } = context;
  await using stack = new AsyncDisposableStack();
  const id = `builder-${context.ids.uuid()}`;
  const work = `${builder.cacheTemplate}.draft-${id}`;
  stack.defer(() => remove(work));
  await mkdir(path.join(work, 'context'), { recursive: true, mode: 0o700 });
  await writeFile(path.join(work, 'context/Dockerfile'), `FROM ${runtime.base.aliases[0]}\nRUN true\n`);
  const contextDisk = path.join(work, 'context.raw');
  await makeContextDisk(path.join(work, 'context'), contextDisk, options.signal);
  const cache = path.join(work, 'cache');
  await using blank = await open(cache, 'wx', 0o600);
  await blank.truncate(SPARE_DISK_BYTES);
  const out = path.join(work, 'out');
  await makeOutDisk(runtime, out, options.signal);
  const place = {
    id,
    snapshotDir: builder.snapshotDir,
    workDir: work,
    context: { kind: 'raw', path: contextDisk },
    cache: { kind: 'raw', path: cache },
    out: { kind: 'raw', path: out },
  } as const;
  let log = '';
  const onLog = (chunk: Buffer) => {
    log = (log + chunk.toString('utf8')).slice(-4096);
  };
  let exitCode: number;
  {
    await using machine = await startBuilder(context, place, options);
    exitCode = await machine.run({ onLog }, options);
  }
  if (exitCode !== 0) {
    throw new MachineError('failed', `the builder could not build the base image (exit code ${exitCode})`, {
      evidence: log,
    });
  }
  await syncPath(cache);
  await chmod(cache, 0o444);
  await unlessThere(builder.cacheTemplate, () => link(cache, builder.cacheTemplate));
  await syncPath(path.dirname(builder.cacheTemplate));
}

/** The first of the builder's disks: the context's tar at its start. Instead of what the file held, when there is one. */
export async function makeContextDisk(dir: string, disk: string, signal: AbortSignal | undefined): Promise<void> {
  await using file = await open(disk, 'w', 0o600);
  await writeContextTar(dir, file, signal);
  await file.truncate(SPARE_DISK_BYTES);
}

/**
 * The last of the builder's disks: already holds the base, so that only an image's own layers have to be written. Instead of what the
 * file held, when there is one.
 */
export async function makeOutDisk(runtime: Runtime, disk: string, signal: AbortSignal | undefined): Promise<void> {
  await copySparse(runtime.base.disk, disk, signal);
  await chmod(disk, 0o600);
  await using file = await open(disk, 'r+');
  await file.truncate(SPARE_DISK_BYTES);
}
