/**
 * Set-up: makes everything the engine runs on, below the cache folder and outside the clone, and describes it in
 * `runtime/runtime.json`, written last. Idempotent: products carry the digest of what they were made from, so a second
 * run only looks; an interrupted run goes on where it stopped. One set-up works at a time.
 *
 *   node scripts/setup.ts
 */
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { prepareBuilder, type Runtime } from '../src/engine/index.ts';
import { createLogger, MachineError, messageOf } from '../src/lib/index.ts';
import { BASE_NAME, setUpBase } from './setup/base.ts';
import { baseNames } from './setup/base-names.ts';
import { setUpBuilder, setUpBuildkit } from './setup/builder.ts';
import { findDebian } from './setup/debian.ts';
import { setUpGoProgram } from './setup/go-programs.ts';
import { setUpGuestTools } from './setup/guest-tools.ts';
import { installHostPackages } from './setup/host-packages.ts';
import { setUpInitramfs } from './setup/initramfs.ts';
import { setUpJail } from './setup/jail-root.ts';
import { setUpKernel } from './setup/kernel.ts';
import { acquireLock } from './setup/lock.ts';
import { setUpNodeLayer } from './setup/node-layer.ts';
import { setUpQemu } from './setup/qemu.ts';
import type { SetupContext } from './setup/setup-context.ts';
import { Steps, stampOf } from './setup/steps.ts';
import { AGENT_EXPERIMENT, makeToolchain, unpackedGoDir } from './setup/toolchain.ts';
import { measureTscKhz } from './setup/tsc.ts';

async function main(): Promise<void> {
  const startedAt = performance.now();
  const controller = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => controller.abort(new Error('interrupted; run again to go on')));
  }
  if (process.platform !== 'linux' || process.arch !== 'x64') throw new Error('Rekindle runs on Linux on x86-64 only');

  const env = process.env;
  const cacheDir = env.REKINDLE_CACHE ?? join(env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'rekindle');
  const productsDir = join(cacheDir, 'runtime');
  const workDir = join(cacheDir, 'work');
  await mkdir(productsDir, { recursive: true });
  const say = (line: string) => void process.stderr.write(`setup: ${line}\n`);
  using _lock = await acquireLock(join(cacheDir, 'setup.lock'), {
    signal: controller.signal,
    onWait: () => say('another set-up is at work, waiting for it ...'),
  });
  await emptyWorkDir(workDir);
  const steps = new Steps({ productsDir, workDir, say, slots: 3 });
  const context: SetupContext = {
    repoDir: dirname(import.meta.dirname),
    cacheDir,
    workDir,
    env,
    signal: controller.signal,
    steps,
    say,
  };
  await installHostPackages(context);
  const runtime = await makeRuntime(context, (reason) => controller.abort(reason));
  await makeBuilderSnapshot(context, runtime);
  await emptyWorkDir(workDir);
  say(`ready ... ${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
}

async function makeRuntime(context: SetupContext, abort: (reason: unknown) => void): Promise<Runtime> {
  const debian = await findDebian(context);
  const go = { toolchain: makeToolchain(context, debian).get };
  const agentDir = join(context.repoDir, 'agent');
  const goProgram = (moduleDir: string, name: string, path: string, experiment?: string) =>
    setUpGoProgram(context, go, { moduleDir, name, package: path, ...(experiment && { experiment }) });

  // The slowest first; steps wait for a free slot and for what they are made of.
  const base = setUpBase(context, debian);
  const parts = {
    buildkit: setUpBuildkit(context, go),
    base,
    nodeLayer: setUpNodeLayer(context, base),
    qemu: setUpQemu(context, debian),
    kernel: setUpKernel(context, debian),
    tools: setUpGuestTools(context, debian),
    agent: goProgram(agentDir, 'agent', './cmd/agent', AGENT_EXPERIMENT),
    program: goProgram(agentDir, 'build', './cmd/build'),
    gateway: goProgram(join(context.repoDir, 'gateway'), 'rekindle-gateway', './cmd/rekindle-gateway'),
    tsc: goProgram(join(context.repoDir, 'scripts/tsc'), 'tsc', '.'),
  };
  const builder = setUpBuilder(context, debian, parts);
  const all = await settled({ ...parts, builder }, abort);
  const initramfs = await setUpInitramfs(context, all);
  const { jail, dirs: jailDirs } = await setUpJail(context, debian, all.qemu);
  const tscKhz = await measureTscKhz(context, all.tsc);

  const products = [all.base.product, all.kernel, initramfs.product, ...all.builder.products];
  const content: Omit<Runtime, 'stamp'> = {
    generation: 1,
    qemu: {
      binary: all.qemu.binary,
      img: all.qemu.img,
      dataDirs: all.qemu.dataDirs,
      version: all.qemu.version,
    },
    jail,
    gateway: { program: all.gateway.path },
    guest: { kernel: all.kernel.kernel, kernelRelease: all.kernel.release, initramfs: initramfs.path },
    tscKhz,
    base: {
      name: BASE_NAME,
      disk: all.base.disk,
      layerDigest: all.base.layer.digest,
      aliases: baseNames(all.nodeLayer.version).flatMap(({ name, isNear }) => (isNear ? [] : [name])),
    },
    builder: { disk: all.builder.disk },
  };
  const stamp = stampOf({ generation: 1, qemu: all.qemu.version, products: products.map((product) => product.dir) });
  const runtime: Runtime = { ...content, stamp };
  const kept = [...products, all.nodeLayer.product, all.tools, all.agent, all.gateway, all.tsc].map(
    (product) => product.dir,
  );
  if (all.qemu.dir !== undefined) kept.push(all.qemu.dir);
  await writeRuntime(context, runtime, [...kept, ...jailDirs, unpackedGoDir(context, debian)]);
  return runtime;
}

/**
 * Writes the description and removes products nobody needs any more. Those of the description before stay until the next
 * change, for servers that still run on them.
 */
async function writeRuntime(context: SetupContext, runtime: Runtime, dirs: readonly string[]): Promise<void> {
  const path = join(context.cacheDir, 'runtime/runtime.json');
  const listPath = join(context.cacheDir, 'runtime/products.json');
  const text = `${JSON.stringify(runtime, null, 2)}\n`;
  if (existsSync(path) && (await readFile(path, 'utf8')) === text && existsSync(listPath)) return;
  const before = existsSync(listPath) ? (JSON.parse(await readFile(listPath, 'utf8')) as string[]) : [];
  await context.steps.sweep(new Set([...dirs, ...before]));
  await writeFile(listPath, JSON.stringify(dirs));
  await writeFile(`${path}.new`, text);
  await rename(`${path}.new`, path);
}

/** Waits for all. The first failure aborts the others, waits until they have ended, and is thrown. */
async function settled<T extends Record<string, Promise<unknown>>>(
  parts: T,
  abort: (reason: unknown) => void,
): Promise<{ [K in keyof T]: Awaited<T[K]> }> {
  try {
    const entries = await Promise.all(Object.entries(parts).map(async ([name, part]) => [name, await part] as const));
    return Object.fromEntries(entries) as { [K in keyof T]: Awaited<T[K]> };
  } catch (error) {
    abort(error);
    await Promise.allSettled(Object.values(parts));
    throw error;
  }
}

/** Lets the engine boot the builder machine once and keep its snapshot, so that the first build starts at once. */
async function makeBuilderSnapshot(context: SetupContext, runtime: Runtime): Promise<void> {
  const { cacheDir, signal, say } = context;
  const onProgress = (line: string) => say(`builder: ${line} ...`);
  await prepareBuilder({ runtime, cacheDir, log: createLogger('warn'), onProgress, signal });
  await sweepBuilders(join(cacheDir, 'builder'));
}

/** Keeps the newest two builders: the one in use and the one before, which a server may still run on. */
async function sweepBuilders(dir: string): Promise<void> {
  const builders: { path: string; madeAtMs: number }[] = [];
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory() && /^[0-9a-f]{16}$/.test(entry.name)) {
      builders.push({ path, madeAtMs: (await stat(path)).mtimeMs });
    }
  }
  builders.sort((a, b) => b.madeAtMs - a.madeAtMs);
  for (const { path } of builders.slice(2)) await rm(path, { recursive: true, force: true });
}

async function emptyWorkDir(workDir: string): Promise<void> {
  await rm(workDir, { recursive: true, force: true });
  await mkdir(workDir, { recursive: true });
}

/** The message, with what a machine's console and build log said last. */
function explain(error: unknown): string {
  const evidence = error instanceof MachineError ? error.evidence.trimEnd() : '';
  return evidence === '' ? messageOf(error) : `${messageOf(error)}\n${evidence}`;
}

try {
  await main();
} catch (error) {
  process.stderr.write(`setup: ${explain(error)}\n`);
  process.exitCode = 1;
}
