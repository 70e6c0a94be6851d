/**
 * A builder machine: launched from its snapshot with the given disks, runs the build program, once or, paused in between, again.
 *
 * Once a RUN step has run the whole guest is hostile: only its exit code, its log and its disks' bytes come out.
 */
import { statfs } from 'node:fs/promises';
import path from 'node:path';
import type { GuestLink } from '../../guest/index.ts';
import { MachineError, messageOf } from '../../lib/index.ts';
import { createOverlay } from '../disk/overlay.ts';
import type { Egress } from '../egress.ts';
import { BuildFailure } from '../engine.ts';
import { remove } from '../folders.ts';
import type { EngineContext } from '../machine/context.ts';
import { fourDisks, overlayOf } from '../machine/disks.ts';
import { restoreConfig, restoreMachine } from '../machine/restore.ts';
import { whileAlive } from '../machine/with-vmm.ts';
import { attached, linkFor } from '../network/network.ts';
import type { Manifest } from '../snapshot/manifest.ts';
import type { Disk, Vmm } from '../vmm/vmm.ts';
import { type Phases, timed } from './phases.ts';
import type { BuilderSettings } from './registries-file.ts';

/** The service's limit for a build is unknown; a build under emulation may take long. */
const BUILD_TIMEOUT_MS = 3_600_000;
/** Below this the host itself is in danger: a build can write as fast as it likes. */
export const MIN_FREE_BYTES = 512 * 1024 * 1024;
const FREE_POLL_MS = 1000;
const WAKE_TIMEOUT_MS = 10_000;
export const BUILD_PROGRAM = '/usr/lib/rekindle/build';
export const PROGRAM_ENV = ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root'];

export interface BuilderPlace {
  /** Names the machine. */
  readonly id: string;
  readonly snapshotDir: string;
  /** Existing folder for the builder's own overlay, on the file system whose free space is watched. */
  readonly workDir: string;
  readonly context: Disk['source'];
  readonly cache: Disk['source'];
  readonly out: Disk['source'];
  readonly egress?: Egress | undefined;
}

export interface BuilderRun {
  readonly phases?: Phases | undefined;
  /** The operator's; absent: none. */
  readonly settings?: BuilderSettings | undefined;
  /** After a build that succeeds the guest stays as it is, for `wake`. */
  readonly stays?: boolean;
  onLog(chunk: Buffer): void;
}

type Options = { signal?: AbortSignal | undefined };

export interface BuilderMachine extends AsyncDisposable {
  /**
   * Resolves with the program's exit code; the vCPUs stand still then and all it wrote is with the host.
   * @throws BuildFailure `host-disk-full`, MachineError
   */
  run(run: BuilderRun, options: Options): Promise<number>;
  /** After a run that stayed, of whose disks only the contents may have changed. @throws MachineError */
  wake(egress: Egress, options: Options): Promise<void>;
  /** Why it is gone. */
  readonly exited: Promise<unknown>;
}

/** @throws MachineError */
export async function startBuilder(
  context: EngineContext,
  place: BuilderPlace,
  { phases, signal }: Options & { phases?: Phases | undefined },
): Promise<BuilderMachine> {
  const manifest = await context.integrity
    .manifestOf(place.snapshotDir, context.driver)
    .catch((error: unknown) => withoutDamaged(place.snapshotDir, error));
  const verified = verifyBuilder(context, place.snapshotDir, manifest);
  verified.catch(() => {});
  await using stack = new AsyncDisposableStack();
  const network = await attached(context.network, place.id, place.egress, { stack, signal });
  const runDir = await context.folders.makeRun(place.id);
  stack.defer(() => remove(runDir));
  const overlay = path.join(place.workDir, 'builder.qcow2');
  await createOverlay(overlay, manifest.parts.disk.bytes);
  const disks = fourDisks({
    root: overlayOf(place.snapshotDir, overlay),
    spare1: place.context,
    spare2: place.cache,
    spare3: place.out,
  });
  const ram = { path: path.join(place.snapshotDir, 'ram'), sharing: 'private' } as const;
  const source = {
    config: restoreConfig(manifest, { id: place.id, runDir, ram, disks, network }),
    statePath: path.join(place.snapshotDir, 'state'),
    secret: manifest.link.secret,
    verified,
  };
  const { vmm, link } = await timed(phases, 'launch', () => restoreMachine(context, source, { signal }));
  stack.use(vmm);
  stack.use(link);
  const owned = stack.move();
  return {
    run: (run, options) => runBuild(context, { vmm, link, workDir: place.workDir }, run, options),
    wake: (egress, options) => wakeBuilder(context, { vmm, link, id: place.id }, egress, options),
    exited: vmm.exited,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function runBuild(
  context: EngineContext,
  { vmm, link, workDir }: { vmm: Vmm; link: GuestLink; workDir: string },
  run: BuilderRun,
  options: Options,
): Promise<number> {
  using full = watchFreeSpace(workDir);
  const signal = options.signal === undefined ? full.signal : AbortSignal.any([options.signal, full.signal]);
  const work = async (bounded: AbortSignal) => {
    const argv = [BUILD_PROGRAM, '--context', 'spare1', '--cache', 'spare2', '--out', 'spare3'];
    argv.push('--base-layer', context.runtime.base.layerDigest, ...(run.stays === true ? ['--stay'] : []));
    const { exitCode } = await link.exec(
      { argv, env: environment(run.settings), cwd: '/' },
      { onOutput: run.onLog, timeoutMs: BUILD_TIMEOUT_MS, signal: bounded },
    );
    // Stopping the vCPUs also hands everything written to the disks over to the host.
    await vmm.pause();
    return exitCode;
  };
  return await timed(run.phases, 'Dockerfile', () => whileAlive(vmm, signal, work));
}

async function wakeBuilder(
  { network, clock }: EngineContext,
  { vmm, link, id }: { vmm: Vmm; link: GuestLink; id: string },
  egress: Egress,
  options: Options,
): Promise<void> {
  await whileAlive(vmm, options.signal, async (signal) => {
    await network.update(id, egress);
    await vmm.setLink(linkFor(egress));
    await vmm.continue();
    await link.setClock(() => clock.now(), { timeoutMs: WAKE_TIMEOUT_MS, signal });
  });
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
