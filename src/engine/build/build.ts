/** Runs a Dockerfile in the builder machine and gives back the root disk with its container config. */
import { existsSync } from 'node:fs';
import { mkdir, open, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { isDiskFull, MachineError, messageOf } from '../../lib/index.ts';
import { copySparse } from '../disk/copy.ts';
import { BuildFailure, type BuildRequest, type TracedDisk } from '../engine.ts';
import { remove } from '../folders.ts';
import type { EngineContext } from '../machine/context.ts';
import { type Builder, ensureBuilder, makeContextDisk, makeOutDisk } from './builder.ts';
import { diskFull, freeBytes, MIN_FREE_BYTES, startBuilder } from './builder-run.ts';
import type { BuildCaches } from './caches.ts';
import type { BuildSession, KeptBuilder } from './kept-builder.ts';
import { timed } from './phases.ts';
import { fileSystemBytes, readResult, resultBytes } from './result.ts';
import { sourceKey } from './source-key.ts';

/** Exit codes of the build program. */
const EXIT_DOCKERFILE = 10;
const EXIT_NO_DOCKERFILE = 11;
const EXIT_DISK_FULL = 12;

/** What builds leave for each other. */
export interface BuildParts {
  readonly caches: BuildCaches;
  readonly kept: KeptBuilder;
}

type Options = { signal?: AbortSignal | undefined };

/** @throws BuildFailure, MachineError; nothing is left in `outDir` then */
export async function buildImage(
  context: EngineContext,
  parts: BuildParts,
  request: BuildRequest,
  options: Options,
): Promise<TracedDisk> {
  await using stack = new AsyncDisposableStack();
  const work = context.folders.work(request.buildId);
  stack.defer(async () => {
    await remove(work);
    // The build's folder is the images room's; gone with us when it holds nothing else.
    await rmdir(path.dirname(work)).catch(() => {});
  });
  await remove(work);
  await mkdir(work, { recursive: true, mode: 0o700 });
  await mkdir(request.outDir, { recursive: true });
  if ((await freeBytes(work)) < MIN_FREE_BYTES) throw diskFull();
  if (!existsSync(path.join(request.contextDir, 'Dockerfile'))) {
    throw new BuildFailure('dockerfile-missing', 'the artifact has no Dockerfile at its root');
  }
  try {
    return await build(context, parts, request, work, options);
  } catch (error) {
    throw isDiskFull(error) ? diskFull() : error;
  }
}

async function build(
  context: EngineContext,
  parts: BuildParts,
  request: BuildRequest,
  work: string,
  options: Options,
): Promise<TracedDisk> {
  const { caches, kept } = parts;
  const { signal } = options;
  const log = (line: string) => request.onLog(Buffer.from(`${line}\n`));
  const { phases } = request;
  const builder = await timed(phases, 'builder', () => ensureBuilder(context, log, options));
  const key = await timed(phases, 'compare', () => keyOf(context, builder, request, signal));
  const earlier = key === undefined ? undefined : await earlierResult(context, caches, request, key, work);
  if (earlier !== undefined) {
    log('[rekindle] nothing changed since an earlier build: using its root disk');
    return earlier;
  }
  const settings = await context.registries?.current();
  // Credentials of registries are in no machine that is kept.
  const stay = settings === undefined && request.egress !== undefined ? request.stay : undefined;
  await using stack = new AsyncDisposableStack();
  const session =
    (stay && (await woken(context, kept, builder, request, signal))) ??
    (await opened(context, caches, builder, request, signal));
  const owned = stack.use(ownedUntilKept(session));
  const { machine, cache } = session;
  const run = { settings, phases, stays: stay !== undefined, onLog: request.onLog };
  const exitCode = await machine.run(run, options);
  const copy = stay !== undefined && exitCode === 0 ? await cache.keepCopy() : undefined;
  // The program put the cache away in order when it ended of its own accord, other than by an error of its own.
  if (copy === undefined) {
    await machine[Symbol.asyncDispose]();
    if (exitCode === 0 || exitCode === EXIT_DOCKERFILE || exitCode === EXIT_NO_DOCKERFILE) cache.keep();
    else await cache.forget();
  }
  if (exitCode !== 0) throw failureOf(exitCode);
  return await timed(phases, 'keep', async () => {
    const { record, ...built } = await keepDisk(context, request, session, { isCopy: copy !== undefined });
    if (key !== undefined) await caches.keepResult(request.cacheOwner, key, { disk: built.diskPath, record });
    if (stay !== undefined && copy !== undefined) kept.keep(owned.keep(), copy.copied, stay);
    return built;
  });
}

/** A new machine. */
async function opened(
  context: EngineContext,
  caches: BuildCaches,
  builder: Builder,
  request: BuildRequest,
  signal: AbortSignal | undefined,
): Promise<BuildSession> {
  const { buildId, cacheOwner: owner, egress, phases } = request;
  await using stack = new AsyncDisposableStack();
  const cache = stack.use(await timed(phases, 'cache', () => caches.lease(owner, builder, { signal })));
  const { workDir } = cache;
  const [contextDisk, outDisk] = [path.join(workDir, 'context.raw'), path.join(workDir, 'out.raw')];
  await fillDisks(context, request, { contextDisk, outDisk }, signal);
  const place = {
    // Not the build's: it may be there yet when the app of this or the next one is started.
    id: `builder-${buildId}`,
    snapshotDir: builder.snapshotDir,
    workDir,
    context: { kind: 'raw', path: contextDisk },
    cache: cache.disk,
    out: { kind: 'raw', path: outDisk },
    egress,
  } as const;
  const machine = stack.use(await startBuilder(context, place, { phases, signal }));
  const owned = stack.move();
  return {
    owner,
    key: builder.key,
    machine,
    cache,
    contextDisk,
    outDisk,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** The machine of the build before, when it is there and goes on. */
async function woken(
  context: EngineContext,
  kept: KeptBuilder,
  { key }: Builder,
  request: BuildRequest,
  signal: AbortSignal | undefined,
): Promise<BuildSession | undefined> {
  const { cacheOwner, egress, phases } = request;
  if (egress === undefined) return undefined;
  const session = await kept.take(cacheOwner, key);
  if (session === undefined) return undefined;
  try {
    await fillDisks(context, request, session, signal);
    await timed(phases, 'wake', () => session.machine.wake(egress, { signal }));
    request.onLog(Buffer.from("[rekindle] going on in the machine of this principal's last build\n"));
    return session;
  } catch (error) {
    await session[Symbol.asyncDispose]();
    signal?.throwIfAborted();
    if (isDiskFull(error)) throw error;
    context.log.warn({ error: messageOf(error) }, 'the builder that was kept could not be used again');
    return undefined;
  }
}

async function fillDisks(
  { runtime }: EngineContext,
  { contextDir, phases }: BuildRequest,
  { contextDisk, outDisk }: Pick<BuildSession, 'contextDisk' | 'outDisk'>,
  signal: AbortSignal | undefined,
): Promise<void> {
  await Promise.all([
    timed(phases, 'context', () => makeContextDisk(contextDir, contextDisk, signal)),
    timed(phases, 'base', () => makeOutDisk(runtime, outDisk, signal)),
  ]);
}

/** Disposing it ends the session, unless it was handed on. */
function ownedUntilKept(session: BuildSession): AsyncDisposable & { keep(): BuildSession } {
  let isKept = false;
  return {
    keep: () => {
      isKept = true;
      return session;
    },
    [Symbol.asyncDispose]: async () => {
      if (!isKept) await session[Symbol.asyncDispose]();
    },
  };
}

/** Undefined: the build may come to something else each time. */
async function keyOf(
  { runtime, registries }: EngineContext,
  { key: stamp }: Builder,
  { contextDir }: BuildRequest,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  // The operator's settings may send a base's name anywhere.
  if (registries !== undefined) return undefined;
  return sourceKey(contextDir, { bases: runtime.base.aliases, stamp, signal });
}

async function earlierResult(
  context: EngineContext,
  caches: BuildCaches,
  { cacheOwner, outDir }: BuildRequest,
  key: string,
  work: string,
): Promise<TracedDisk | undefined> {
  const diskPath = path.join(outDir, 'disk');
  const found = await caches.result(cacheOwner, key, diskPath);
  if (found === undefined) return undefined;
  const recordPath = path.join(work, 'record');
  await writeFile(recordPath, found.record, { mode: 0o600 });
  await using file = await open(recordPath, 'r');
  try {
    return { diskPath, ...(await readResult(file)), isFresh: false, builder: describeBuilder(context) };
  } catch {
    await rm(diskPath, { force: true });
    return undefined;
  }
}

/** Takes what the builder wrote; a copy of it when the machine goes on with its disks. */
async function keepDisk(
  context: EngineContext,
  request: BuildRequest,
  { contextDisk, outDisk }: BuildSession,
  { isCopy }: { isCopy: boolean },
): Promise<TracedDisk & { record: Buffer }> {
  await using file = await open(contextDisk, 'r');
  const result = await readResult(file);
  const bytes = await fileSystemBytes(outDisk);
  const diskPath = path.join(request.outDir, 'disk');
  if (isCopy) await copySparse(outDisk, diskPath, undefined);
  else await rename(outDisk, diskPath);
  await using disk = await open(diskPath, 'r+');
  await disk.truncate(bytes);
  await disk.datasync();
  const record = await resultBytes(file);
  return { diskPath, ...result, isFresh: true, builder: describeBuilder(context), record };
}

/** A kept result was made by the same: that is part of its key. */
function describeBuilder({ runtime, driver }: EngineContext): TracedDisk['builder'] {
  const { name, version, accelerator } = driver;
  return { runtime: runtime.stamp, kernel: runtime.guest.kernelRelease, vmm: `${name} ${version} (${accelerator})` };
}

function failureOf(exitCode: number): Error {
  if (exitCode === EXIT_DOCKERFILE) {
    return new BuildFailure(
      'dockerfile-failed',
      'the Dockerfile could not be built; see the last lines of its log',
      exitCode,
    );
  }
  if (exitCode === EXIT_NO_DOCKERFILE) {
    return new BuildFailure('dockerfile-missing', 'the artifact has no Dockerfile at its root');
  }
  if (exitCode === EXIT_DISK_FULL) return new BuildFailure('disk-full', "the build's disk of 16 GiB is full", exitCode);
  return new MachineError('failed', `the builder failed with exit code ${exitCode}`);
}
