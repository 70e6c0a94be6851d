/**
 * Go for the agent, the builder and the TSC probe. Any Go that can fetch the version a go.mod asks for will do; when the
 * machine has none, Debian's is unpacked beside the system. Go's own caches live in the cache folder, so removing that
 * folder removes everything.
 */
import { existsSync } from 'node:fs';
import { copyFile, cp, readdir, rm, symlink, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { unpackDebs } from './apt-root.ts';
import { type CommandOptions, retry, run } from './command.ts';
import type { Debian } from './debian.ts';
import { findProgram } from './host-packages.ts';
import type { SetupContext } from './setup-context.ts';
import type { Inputs } from './steps.ts';

export interface Toolchain {
  /** Product folder, `undefined` for the machine's own Go. */
  readonly dir: string | undefined;
  /**
   * Builds main packages into a folder, statically linked. `cachesDir` holds modules and compiled packages of this build
   * alone, for one that is seldom done and large. `experiment` switches on one of Go's experiments.
   */
  build(options: {
    moduleDir: string;
    packages: readonly string[];
    into: string;
    cachesDir?: string;
    experiment?: string;
    change?: ModuleChange;
  }): Promise<void>;
}

/** A dependency that is built from a changed copy of its sources. */
export interface ModuleChange {
  readonly module: string;
  /** The copy, which does not outlive the build. */
  readonly dir: string;
  edit(dir: string): Promise<void>;
}

/** A slow machine with one core compiles BuildKit in about ten minutes. */
const BUILD_TIMEOUT_MS = 3_600_000;

type Host = Pick<SetupContext, 'env' | 'cacheDir' | 'signal'>;

/** Go 1.21 was the first to fetch newer toolchains by itself. */
const OLDEST_MINOR = 21;

/** Finds or unpacks Go; does the work only when something has to be built. */
export function makeToolchain(context: SetupContext, debian: Debian): { get(): Promise<Toolchain> } {
  let toolchain: Promise<Toolchain> | undefined;
  return {
    get: () => {
      toolchain ??= findToolchain(context, debian);
      return toolchain;
    },
  };
}

async function findToolchain(context: SetupContext, debian: Debian): Promise<Toolchain> {
  const system = await systemGo(context);
  if (system !== undefined) return toolchainOf(context, system, undefined);
  const dir = await unpackGo(context, debian);
  return toolchainOf(context, join(dir, 'goroot/bin/go'), dir);
}

/** The Go of this machine, when it is new enough. */
async function systemGo(host: Host): Promise<string | undefined> {
  // Lets the other way be tried on a machine that has Go.
  if (host.env.REKINDLE_SYSTEM_GO === '0') return undefined;
  const env = goEnvironment(host.env, host.cacheDir);
  for (const program of [findProgram('go', host.env), '/usr/local/go/bin/go']) {
    if (program === undefined || !existsSync(program)) continue;
    try {
      const version = await run([program, 'env', 'GOVERSION'], { env, cwd: '/', signal: host.signal });
      if (Number(/^go1\.(\d+)/.exec(version)?.[1] ?? 0) >= OLDEST_MINOR) return program;
    } catch {
      host.signal.throwIfAborted();
    }
  }
  return undefined;
}

/** Go as set-up left it: the machine's own or the unpacked one; `undefined` when there is none yet. */
export async function findGo(host: Host): Promise<string | undefined> {
  const system = await systemGo(host);
  if (system !== undefined) return system;
  const products = join(host.cacheDir, 'runtime');
  const names = existsSync(products) ? await readdir(products) : [];
  return names.map((name) => join(products, name, 'goroot/bin/go')).find((path) => existsSync(path));
}

/** Where Go is unpacked when this machine has none; kept while it is there. */
export function unpackedGoDir(context: SetupContext, debian: Debian): string {
  return context.steps.dirOf('go', goInputs(debian));
}

function goInputs(debian: Debian): Inputs {
  return { recipe: 1, release: debian.hostRelease };
}

async function unpackGo(context: SetupContext, debian: Debian): Promise<string> {
  const unpack = async (dir: string) => {
    // The guests' release has a Go that runs anywhere (it is static), should the host's have none.
    const apt = (await debian.hostRoot()) ?? (await debian.guestRoot());
    const versions = (await apt.names('^golang-1\\.[0-9]+-go$'))
      .map((name) => Number(/1\.(\d+)/.exec(name)?.[1]))
      .sort((a, b) => b - a);
    const newest = versions[0];
    if (newest === undefined || newest < OLDEST_MINOR) {
      throw new Error(`Go 1.${OLDEST_MINOR} or newer is needed and this machine's apt offers none`);
    }
    const packages = [`golang-1.${newest}-go`, `golang-1.${newest}-src`];
    const debs = await apt.download(packages, { into: join(context.workDir, 'go-debs') });
    await unpackDebs(debs, dir, context);
    // Debian splits Go over /usr/lib and /usr/share with links between; they must point into this folder.
    const lib = join(dir, `usr/lib/go-1.${newest}`);
    for (const entry of await readdir(lib, { withFileTypes: true })) {
      if (!entry.isSymbolicLink()) continue;
      await unlink(join(lib, entry.name));
      await symlink(`../../share/go-1.${newest}/${entry.name}`, join(lib, entry.name));
    }
    await symlink(`usr/lib/go-1.${newest}`, join(dir, 'goroot'));
  };
  const product = await context.steps.product('go', goInputs(debian), unpack, { nested: true });
  return product.dir;
}

function toolchainOf(context: SetupContext, go: string, dir: string | undefined): Toolchain {
  return {
    dir,
    async build({ moduleDir, packages, into, cachesDir, experiment = '', change }) {
      // Go's work folders then go with ours when it is interrupted.
      const ownEnv = {
        ...goEnvironment(context.env, context.cacheDir),
        GOTMPDIR: context.workDir,
        GOEXPERIMENT: experiment,
      };
      const ours = { cwd: moduleDir, env: ownEnv, signal: context.signal };
      // The version the module asks for, which this Go fetches first when it is older; kept in our own cache.
      const goroot = await retry('download of Go', () => run([go, 'env', 'GOROOT'], ours), context);
      const program = join(goroot.trim(), 'bin/go');
      const env = cachesDir === undefined ? ours.env : { ...ours.env, ...goCaches(cachesDir), GOTOOLCHAIN: 'local' };
      const options = { ...ours, env };
      await retry('download of Go modules', () => run([program, 'mod', 'download'], options), context);
      const replaced = change === undefined ? [] : ['-modfile', await replaceModule(program, change, options)];
      const argv = [
        program,
        'build',
        ...replaced,
        '-trimpath',
        '-ldflags',
        '-s -w',
        '-tags',
        'netgo osusergo',
        '-o',
        `${into}/`,
      ];
      await run([...argv, ...packages], { ...options, timeoutMs: BUILD_TIMEOUT_MS });
    },
  };
}

/** Makes the changed copy; returns the go.mod, and its go.sum beside it, of a build with it. */
async function replaceModule(
  go: string,
  { module, dir, edit }: ModuleChange,
  options: CommandOptions & { cwd: string },
): Promise<string> {
  const said = JSON.parse(await run([go, 'mod', 'download', '-json', module], options)) as { Dir: string };
  await rm(dir, { recursive: true, force: true });
  await cp(said.Dir, join(dir, 'source'), { recursive: true });
  await edit(join(dir, 'source'));
  for (const name of ['go.mod', 'go.sum']) await copyFile(join(options.cwd, name), join(dir, name));
  const modFile = join(dir, 'go.mod');
  await run([go, 'mod', 'edit', `-replace=${module}=${join(dir, 'source')}`, modFile], options);
  return modFile;
}

/** runtime/secret, by which the agent erases keys it opened credentials with. */
export const AGENT_EXPERIMENT = 'runtimesecret';

/** Environment for Go commands. */
export function goEnvironment(env: NodeJS.ProcessEnv, cacheDir: string): NodeJS.ProcessEnv {
  return {
    ...env,
    ...goCaches(join(cacheDir, 'go')),
    GOTOOLCHAIN: 'auto',
    GOWORK: 'off',
    // Lets the module cache be removed like any other folder.
    GOFLAGS: '-modcacherw -buildvcs=false',
    CGO_ENABLED: '0',
  };
}

function goCaches(dir: string): NodeJS.ProcessEnv {
  return { GOPATH: dir, GOMODCACHE: join(dir, 'pkg/mod'), GOCACHE: join(dir, 'build') };
}
