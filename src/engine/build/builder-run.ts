/**
 * One run of the builder machine: launched from its snapshot with the given disks, runs the build program, is ended.
 *
 * Once a RUN step has run the whole guest is hostile: only its exit code, its log and its disks' bytes come out.
 */
import { statfs } from 'node:fs/promises';
import path from 'node:path';
import { MachineError, messageOf } from '../../lib/index.ts';
import { createOverlay } from '../disk/overlay.ts';
import type { Egress } from '../egress.ts';
import { BuildFailure } from '../engine.ts';
import { remove } from '../folders.ts';
import type { EngineContext } from '../machine/context.ts';
import { fourDisks, overlayOf } from '../machine/disks.ts';
import { restoreConfig, restoreMachine } from '../machine/restore.ts';
import { whileAlive } from '../machine/with-vmm.ts';
import { attached } from '../network/network.ts';
import type { Manifest } from '../snapshot/manifest.ts';
import type { Disk } from '../vmm/vmm.ts';
import { type Phases, timed } from './phases.ts';
import type { BuilderSettings } from './registries-file.ts';

/** The service's limit for a build is unknown; a build under emulation may take long. */
const BUILD_TIMEOUT_MS = 3_600_000;
/** Below this the host itself is in danger: a build can write as fast as it likes. */
export const MIN_FREE_BYTES = 512 * 1024 * 1024;
const FREE_POLL_MS = 1000;
export const BUILD_PROGRAM = '/usr/lib/rekindle/build';
export const PROGRAM_ENV = ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root'];

export interface BuilderRun {
  /** Names the machine. */
  readonly id: string;
  readonly snapshotDir: string;
  /** Existing folder for the builder's own overlay, on the file system whose free space is watched. */
  readonly workDir: string;
  readonly context: Disk['source'];
  readonly cache: Disk['source'];
  readonly out: Disk['source'];
  readonly egress?: Egress | undefined;
  readonly phases?: Phases | undefined;
  /** The operator's; absent: none. */
  readonly settings?: BuilderSettings | undefined;
  onLog(chunk: Buffer): void;
}

/** Resolves with the program's exit code. @throws BuildFailure `host-disk-full`, MachineError */
export async function runBuilder(
  context: EngineContext,
  run: BuilderRun,
  options: { signal?: AbortSignal | undefined },
): Promise<number> {
  const manifest = await context.integrity
    .manifestOf(run.snapshotDir, context.driver)
    .catch((error: unknown) => withoutDamaged(run.snapshotDir, error));
  const verified = verifyBuilder(context, run.snapshotDir, manifest);
  verified.catch(() => {});
  await using stack = new AsyncDisposableStack();
  const network = await attached(context.network, run.id, run.egress, { stack, signal: options.signal });
  const runDir = await context.folders.makeRun(run.id);
  stack.defer(() => remove(runDir));
  const overlay = path.join(run.workDir, 'builder.qcow2');
  await createOverlay(overlay, manifest.parts.disk.bytes);
  const disks = fourDisks({
    root: overlayOf(run.snapshotDir, overlay),
    spare1: run.context,
    spare2: run.cache,
    spare3: run.out,
  });
  const ram = { path: path.join(run.snapshotDir, 'ram'), sharing: 'private' } as const;
  const source = {
    config: restoreConfig(manifest, { id: run.id, runDir, ram, disks, network }),
    statePath: path.join(run.snapshotDir, 'state'),
    secret: manifest.link.secret,
    verified,
  };
  const { vmm, link } = await timed(run.phases, 'launch', () => restoreMachine(context, source, options));
  stack.use(vmm);
  stack.use(link);
  const full = stack.use(watchFreeSpace(run.workDir));
  const signal = options.signal === undefined ? full.signal : AbortSignal.any([options.signal, full.signal]);
  const work = async (bounded: AbortSignal) => {
    const argv = [BUILD_PROGRAM, '--context', 'spare1', '--cache', 'spare2', '--out', 'spare3'];
    const { exitCode } = await link.exec(
      { argv: [...argv, '--base-layer', context.runtime.base.layerDigest], env: environment(run.settings), cwd: '/' },
      { onOutput: run.onLog, timeoutMs: BUILD_TIMEOUT_MS, signal: bounded },
    );
    // Stopping the vCPUs also hands everything written to the disks over to the host.
    await vmm.pause();
    return exitCode;
  };
  return await timed(run.phases, 'Dockerfile', () => whileAlive(vmm, signal, work));
}

/** Credentials are in the memory of this one machine, which nobody keeps. */
function environment(settings: BuilderSettings | undefined): readonly string[] {
  if (settings === undefined) return PROGRAM_ENV;
  return [...PROGRAM_ENV, `REKINDLE_BUILD_SETTINGS=${JSON.stringify(settings)}`];
}

async function verifyBuilder({ integrity }: EngineContext, snapshotDir: string, { parts }: Manifest): Promise<void> {
  await integrity.verify(snapshotDir, parts).catch((error: unknown) => withoutDamaged(snapshotDir, error));
}

/** The builder can be made anew at any time: the next build does when it is gone. */
async function withoutDamaged(snapshotDir: string, error: unknown): Promise<never> {
  if (!(error instanceof MachineError && error.kind === 'corrupt')) throw error;
  await remove(snapshotDir);
  throw new MachineError('corrupt', 'the builder was damaged and has been removed: build again', { cause: error });
}

export async function freeBytes(dir: string): Promise<number> {
  const { bavail, bsize } = await statfs(dir);
  return bavail * bsize;
}

export function diskFull(): BuildFailure {
  return new BuildFailure('host-disk-full', 'the disk of this host is full: free some space and build again');
}

/** Aborts its signal when the host's disk runs full. */
function watchFreeSpace(dir: string): Disposable & { signal: AbortSignal } {
  const controller = new AbortController();
  const timer = setInterval(() => {
    freeBytes(dir).then(
      (bytes) => bytes < MIN_FREE_BYTES && controller.abort(diskFull()),
      (error: unknown) => controller.abort(new MachineError('failed', `the work folder is gone: ${messageOf(error)}`)),
    );
  }, FREE_POLL_MS);
  timer.unref();
  return { signal: controller.signal, [Symbol.dispose]: () => clearInterval(timer) };
}
