/** Runs a Dockerfile in the builder machine and gives back the root disk with its container config. */
import { existsSync } from 'node:fs';
import { mkdir, open, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { isDiskFull, MachineError } from '../../lib/index.ts';
import { BuildFailure, type BuildRequest, type TracedDisk } from '../engine.ts';
import { remove } from '../folders.ts';
import type { EngineContext } from '../machine/context.ts';
import { type Builder, ensureBuilder, makeContextDisk, makeOutDisk } from './builder.ts';
import { diskFull, freeBytes, MIN_FREE_BYTES, runBuilder } from './builder-run.ts';
import type { BuildCaches } from './caches.ts';
import { timed } from './phases.ts';
import { fileSystemBytes, readResult, resultBytes } from './result.ts';
import { sourceKey } from './source-key.ts';

/** Exit codes of the build program. */
const EXIT_DOCKERFILE = 10;
const EXIT_NO_DOCKERFILE = 11;
const EXIT_DISK_FULL = 12;

/** @throws BuildFailure, MachineError; nothing is left in `outDir` then */
export async function buildImage(
  context: EngineContext,
  caches: BuildCaches,
  request: BuildRequest,
  options: { signal?: AbortSignal | undefined },
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
    return await build(context, caches, request, work, options);
  } catch (error) {
    throw isDiskFull(error) ? diskFull() : error;
  }
}

async function build(
  context: EngineContext,
  caches: BuildCaches,
  request: BuildRequest,
  work: string,
  options: { signal?: AbortSignal | undefined },
): Promise<TracedDisk> {
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
  const contextDisk = path.join(work, 'context.raw');
  const out = path.join(work, 'out.raw');
  await using stack = new AsyncDisposableStack();
  const leased = caches.lease(request.cacheOwner, builder, { signal });
  stack.defer(async () => (await leased.catch(() => undefined))?.[Symbol.asyncDispose]());
  const [cache] = await Promise.all([
    timed(phases, 'cache', () => leased),
    timed(phases, 'context', () => makeContextDisk(request.contextDir, contextDisk, signal)),
    timed(phases, 'base', () => makeOutDisk(context.runtime, out, signal)),
  ]);
  const exitCode = await runBuilder(
    context,
    {
      id: request.buildId,
      snapshotDir: builder.snapshotDir,
      workDir: work,
      context: { kind: 'raw', path: contextDisk },
      cache: cache.disk,
      out: { kind: 'raw', path: out },
      settings: await context.registries?.current(),
      egress: request.egress,
      phases,
      onLog: request.onLog,
    },
    options,
  );
  // The program put the cache away in order when it ended of its own accord, other than by an error of its own.
  if (exitCode === 0 || exitCode === EXIT_DOCKERFILE || exitCode === EXIT_NO_DOCKERFILE) cache.keep();
  else await cache.forget();
  if (exitCode !== 0) throw failureOf(exitCode);
  return await timed(phases, 'keep', async () => {
    const { record, ...built } = await keepDisk(context, request, { contextDisk, out });
    if (key !== undefined) await caches.keepResult(request.cacheOwner, key, { disk: built.diskPath, record });
    return built;
  });
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

/** Takes what the builder wrote. */
async function keepDisk(
  context: EngineContext,
  request: BuildRequest,
  { contextDisk, out }: { contextDisk: string; out: string },
): Promise<TracedDisk & { record: Buffer }> {
  await using file = await open(contextDisk, 'r');
  const result = await readResult(file);
  const bytes = await fileSystemBytes(out);
  await using disk = await open(out, 'r+');
  await disk.truncate(bytes);
  await disk.datasync();
  const diskPath = path.join(request.outDir, 'disk');
  await rename(out, diskPath);
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
