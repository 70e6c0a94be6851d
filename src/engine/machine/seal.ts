/** Boots a built root disk, starts its app, waits until it is ready and seals the snapshot. */
import { stat, truncate } from 'node:fs/promises';
import path from 'node:path';
import type { GuestLink } from '../../guest/index.ts';
import { MachineError, messageOf } from '../../lib/index.ts';
import { timed } from '../build/phases.ts';
import { copySparse } from '../disk/copy.ts';
import { digHoles } from '../disk/dig-holes.ts';
import {
  BuildFailure,
  type KeptDisk,
  MEMORY_SIZES_MIB,
  type MemoryMiB,
  type RoleCredentials,
  type SealedSnapshot,
  type SealRequest,
} from '../engine.ts';
import { guestDigests } from '../guest-digests.ts';
import { type Manifest, readForeignManifest } from '../snapshot/manifest.ts';
import { allocatedBytes, createDraft, sealDraft } from '../snapshot/seal.ts';
import { type Booted, bootMachine, mountRoot } from './boot.ts';
import type { EngineContext } from './context.ts';
import { GuestCredentials } from './guest-credentials.ts';
import { untilReady } from './readiness.ts';
import { runToSnapshot } from './to-snapshot.ts';
import { cloneWaitingGuest, type GuestShape } from './waiting-guest.ts';

const START_TIMEOUT_MS = 60_000;
/** The guest sees four times its class, as on the service. */
const PEAK_FACTOR = 4;
const GIB = 1024 ** 3;
/** Erasing freed memory begins with all of it, at boot: more than this takes minutes and fills the host. */
const MAX_ERASED_MIB = 8192;

/** @throws BuildFailure, MachineError; nothing is left then */
export async function sealMachine(
  context: EngineContext,
  request: SealRequest,
  options: { signal?: AbortSignal | undefined },
): Promise<SealedSnapshot> {
  const { config, memoryMiB } = request;
  const argv = [...config.entrypoint, ...config.cmd];
  if (argv.length === 0) throw new BuildFailure('no-command', 'the image has neither ENTRYPOINT nor CMD');
  await using stack = new AsyncDisposableStack();
  const { keyring, vault } = context;
  const draft = stack.use(await createDraft(request.snapshotDir, keyring && { keyring, vault }));
  const { phases } = request;
  await timed(phases, 'copy', () => copySparse(request.disk.diskPath, draft.disk, options.signal));
  const { diskBytes, ...shape } = guestShape(memoryMiB, context.host.cpus);
  await growTo(draft.disk, diskBytes);
  const erasesFreedMemory = context.erasesFreedMemory && shape.memoryMiB <= MAX_ERASED_MIB;
  const booted = await runToSnapshot(
    context,
    draft,
    // Memory that is erased when it is freed is chosen at boot.
    {
      id: request.buildId,
      ...shape,
      egress: request.egress,
      erasesFreedMemory,
      phases,
      start: erasesFreedMemory ? bootMachine : cloneWaitingGuest,
    },
    options,
    async (booted, signal) => {
      await timed(phases, 'mount', () => mountRoot(booted, signal));
      const start = () => startApp(booted.link, request, argv, signal);
      return timed(phases, 'app', () => withCredentials(context, booted, request, signal, start));
    },
    ({ link }, signal) => confirmAlive(link, signal),
  );
  await timed(phases, 'holes', () => giveBackZeros(context, draft.ram, { isMust: erasesFreedMemory }, options.signal));
  const facts = {
    ...shape,
    network: 'none' as const,
    runtimeStamp: context.runtime.stamp,
    kernelRelease: context.runtime.guest.kernelRelease,
    guest: await guestDigests(context.runtime),
    link: booted,
    container: config,
    built: { config: request.disk.config, usedBytes: request.disk.usedBytes },
  };
  const sizes = {
    memoryBytes: await allocatedBytes(draft.ram),
    diskBytes: (await allocatedBytes(draft.disk)) + (await allocatedBytes(draft.changes)),
  };
  const sealing = { driver: context.driver, mapper: context.runtime.qemu.img, signal: options.signal };
  const parts = await timed(phases, 'seal', () => sealDraft(draft, request.snapshotDir, facts, sealing));
  await context.integrity.trust(request.snapshotDir, parts);
  return { snapshotDir: request.snapshotDir, ...sizes };
}

/**
 * A sixth of a guest's memory is zeros that it uses, tables of its kernel for the most part; erased free memory would be all
 * of it, so that without holes the file would have the guest's full size.
 */
async function giveBackZeros(
  { log }: EngineContext,
  ram: string,
  { isMust }: { isMust: boolean },
  signal: AbortSignal | undefined,
): Promise<void> {
  try {
    await digHoles(ram, signal);
  } catch (error) {
    signal?.throwIfAborted();
    if (isMust) throw error;
    log.warn({ error: messageOf(error) }, 'the sealed memory keeps its zeros on the disk');
  }
}

/** See `Engine.keptDisk`. */
export async function keptDisk(
  { integrity, keyring }: EngineContext,
  snapshotDir: string,
): Promise<KeptDisk | undefined> {
  let manifest: Manifest;
  try {
    // Of another VMM or CPU, too: a root disk knows of neither.
    manifest = await readForeignManifest(snapshotDir, keyring);
  } catch {
    return undefined;
  }
  const { built, parts } = manifest;
  const chunks = built && (await integrity.chunksIfWhole(snapshotDir, 'disk', parts.disk));
  if (built === null || chunks == null) return undefined;
  return { ...built, diskPath: path.join(snapshotDir, 'disk'), bytes: parts.disk.bytes, chunks };
}

/** Lends the app its role's credentials while it starts. They are gone, or there is no snapshot. */
async function withCredentials(
  context: EngineContext,
  { link }: Booted,
  { buildId, lendCredentials }: SealRequest,
  signal: AbortSignal,
  work: () => Promise<void>,
): Promise<void> {
  if (lendCredentials === undefined) return work();
  const guest = new GuestCredentials(
    () => link,
    () => context.clock.now(),
    context.log.child({ buildId }),
  );
  const holder = {
    id: buildId,
    setCredentials: (credentials: RoleCredentials | null, options: { signal?: AbortSignal }) =>
      guest.set(credentials, options),
  };
  const lent = await lendCredentials(holder, { signal });
  try {
    await work();
  } finally {
    await lent[Symbol.asyncDispose]();
  }
  await guest.withdraw({ signal });
}

/** An app may end between its readiness and the snapshot, which takes seconds to prepare. */
async function confirmAlive(link: GuestLink, signal: AbortSignal): Promise<void> {
  const status = await link.appStatus({ timeoutMs: START_TIMEOUT_MS, signal });
  if (status.state === 'exited') throw endedEarly(status.exitCode);
}

function endedEarly(exitCode: number): BuildFailure {
  return new BuildFailure('app-exited', `the app ended with exit code ${exitCode} before it was ready`, exitCode);
}

/** Starts the app and waits until it is ready; its output goes to the log all the while. */
async function startApp(link: GuestLink, request: SealRequest, argv: string[], outer: AbortSignal): Promise<void> {
  const { config, capabilities, readiness } = request;
  const over = new AbortController();
  const signal = AbortSignal.any([outer, over.signal]);
  const container = { argv, env: config.env, cwd: config.workingDir || '/', user: config.user, capabilities };
  try {
    await link.startContainer(container, { timeoutMs: START_TIMEOUT_MS, signal });
  } catch (error) {
    throw ofImage(error, request);
  }
  const log = copyLog(link, request, signal);
  try {
    const ended = link.waitApp({ signal }).then(({ exitCode }) => {
      throw endedEarly(exitCode);
    });
    ended.catch(() => {});
    const remark = await Promise.race([untilReady(link, readiness, signal), ended]);
    if (remark !== undefined) request.onLog(Buffer.from(`[rekindle] ${remark}\n`));
  } catch (error) {
    // The app's last words are there already; they belong in the log of the build that fails.
    if (error instanceof BuildFailure) await drainLog(link, request, await stopCopy(over, log));
    throw error;
  } finally {
    over.abort();
  }
}

/** What the agent or crun refuses to start is so by its image: the command, the user or the folders are not there. */
function ofImage(error: unknown, { onLog }: SealRequest): unknown {
  if (!(error instanceof MachineError) || (error.kind !== 'failed' && error.kind !== 'protocol')) return error;
  // Names of the image's own choice are in it.
  onLog(Buffer.from(`[rekindle] ${error.message.replace(/[^\x20-\x7e]/g, '?')}\n`));
  return new BuildFailure('app-not-startable', 'the application could not be started');
}

/** Follows the app's output until aborted; resolves with where it got. */
async function copyLog(link: GuestLink, { onLog }: SealRequest, signal: AbortSignal): Promise<number> {
  let cursor = 0;
  try {
    for await (const line of link.logs({ follow: true, signal })) {
      cursor = line.cursor + 1;
      onLog(Buffer.from(`${line.text}\n`));
    }
  } catch (error) {
    if (!signal.aborted) onLog(Buffer.from(`(the app's output was lost: ${messageOf(error)})\n`));
  }
  return cursor;
}

function stopCopy(over: AbortController, log: Promise<number>): Promise<number> {
  over.abort();
  return log;
}

async function drainLog(link: GuestLink, { onLog }: SealRequest, cursor: number): Promise<void> {
  try {
    const signal = AbortSignal.timeout(START_TIMEOUT_MS);
    for await (const line of link.logs({ cursor, signal })) onLog(Buffer.from(`${line.text}\n`));
  } catch {
    // The failure itself matters more.
  }
}

function rootDiskBytes(memoryMiB: MemoryMiB): number {
  return memoryMiB === 8192 ? 32 * GIB : memoryMiB === 4096 ? 16 * GIB : 8 * GIB;
}

async function growTo(disk: string, bytes: number): Promise<void> {
  const { size } = await stat(disk);
  if (size < bytes) await truncate(disk, bytes);
}

/** What a guest of this class has at its peak. */
export function guestShape(memoryMiB: MemoryMiB, hostCpus: number): GuestShape {
  const cpus = peakCpus(memoryMiB, hostCpus);
  return { memoryMiB: memoryMiB * PEAK_FACTOR, cpus, diskBytes: rootDiskBytes(memoryMiB) };
}

/** 1, 2, 4, 8, 16 vCPUs by class, but no more than the host has. */
function peakCpus(memoryMiB: MemoryMiB, hostCpus: number): number {
  return Math.min(2 ** MEMORY_SIZES_MIB.indexOf(memoryMiB), hostCpus);
}
