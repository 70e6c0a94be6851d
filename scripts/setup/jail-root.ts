/**
 * What a VMM sees of the file system: a folder with QEMU, the two programs that start it, exactly the libraries the loader
 * lists for them, the firmware, and empty places where the files of one machine are mounted. No shell, no configuration.
 * And bubblewrap, which puts a VMM there.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, copyFile, mkdir, realpath, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { JAIL_FILES, JAIL_FOLDERS, type Runtime } from '../../src/engine/index.ts';
import { unpackDebs } from './apt-root.ts';
import { run } from './command.ts';
import type { Debian } from './debian.ts';
import { findProgram } from './host-packages.ts';
import type { Qemu } from './qemu.ts';
import type { SetupContext } from './setup-context.ts';

/** What the microvm machine loads: its BIOS, and the option ROMs that start a kernel. */
const FIRMWARE = ['bios-microvm.bin', 'pvh.bin', 'linuxboot.bin', 'linuxboot_dma.bin', 'multiboot.bin', 'kvmvapic.bin'];
const STARTERS = ['prlimit', 'setpriv'];

interface Program {
  readonly name: string;
  readonly path: string;
  readonly env: NodeJS.ProcessEnv;
}

export interface JailParts {
  readonly jail: Runtime['jail'];
  /** Folders of the products. */
  readonly dirs: readonly string[];
}

export async function setUpJail(context: SetupContext, debian: Debian, qemu: Qemu): Promise<JailParts> {
  const programs = [qemuProgram(qemu, context), ...STARTERS.map((name) => starter(name, context))];
  const libraries = new Map<string, string>();
  for (const program of programs) {
    for (const [place, path] of await librariesOf(program, context)) libraries.set(place, path);
  }
  const firmware = await firmwareOf(qemu, context);
  const sources = [...programs.map((program) => program.path), ...libraries.values(), ...firmware];
  const inputs = { recipe: 3, files: await fingerprint(sources), places: [...JAIL_FILES, ...JAIL_FOLDERS] };
  const product = await context.steps.product('jail-root', inputs, async (dir) => {
    const put = async (from: string, to: string, mode: number) => {
      await makeFolder(dir, dirname(to));
      await copyFile(from, join(dir, to));
      await chmod(join(dir, to), mode);
    };
    for (const { name, path } of programs) await put(path, `/bin/${name}`, 0o755);
    for (const [place, path] of libraries) await put(path, place, 0o755);
    for (const path of firmware) await put(path, `/firmware/${basename(path)}`, 0o644);
    for (const place of JAIL_FOLDERS) await makeFolder(dir, place);
    for (const place of JAIL_FILES) await makeFile(dir, place, '');
    // Asked for by QEMU before it leaves memory unreserved. That the host may refuse to overcommit is found when it does.
    await makeFile(dir, '/proc/sys/vm/overcommit_memory', '0\n');
    await chmod(dir, 0o755);
  });
  const bubblewrap = await setUpBubblewrap(context, debian);
  return {
    jail: {
      root: product.dir,
      hasSeccomp: [...libraries.keys()].some((place) => basename(place).startsWith('libseccomp.so')),
      ...(bubblewrap === undefined ? {} : { bubblewrap: bubblewrap.path }),
    },
    dirs: [product.dir, ...(bubblewrap?.dir === undefined ? [] : [bubblewrap.dir])],
  };
}

function qemuProgram(qemu: Qemu, { env }: SetupContext): Program {
  if (qemu.dir === undefined) return { name: 'qemu', path: qemu.binary, env };
  const triplet = 'x86_64-linux-gnu';
  const unpacked = `${join(qemu.dir, 'usr/lib', triplet)}:${join(qemu.dir, 'lib', triplet)}`;
  const path = join(qemu.dir, 'usr/bin/qemu-system-x86_64');
  return { name: 'qemu', path, env: { ...env, LD_LIBRARY_PATH: unpacked } };
}

function starter(name: string, { env }: SetupContext): Program {
  const path = findProgram(name, env);
  if (path === undefined) throw new Error(`${name} is missing. Run: apt-get install util-linux`);
  return { name, path, env };
}

/** Place in the jail and file of each library, the loader among them. */
async function librariesOf({ path, env }: Program, { signal }: SetupContext): Promise<[string, string][]> {
  const output = await run(['ldd', path], { env, signal });
  const found: [string, string][] = [];
  for (const line of output.split('\n')) {
    const [, name = '', file = ''] = /^\s*(\S+) => (\/\S+) \(0x/.exec(line) ?? [];
    const loader = /^\s*(\/\S+) \(0x/.exec(line)?.[1];
    if (loader !== undefined) found.push([loader, loader]);
    else if (file !== '') found.push([`/lib/${basename(name)}`, file]);
  }
  if (found.length === 0) throw new Error(`the libraries of ${path} cannot be told: ${output.slice(0, 200)}`);
  return found;
}

async function firmwareOf(qemu: Qemu, { env, signal }: SetupContext): Promise<string[]> {
  const listed = qemu.dataDirs.length > 0 ? '' : await run([qemu.binary, '-L', 'help'], { env, signal });
  const folders = [...qemu.dataDirs, ...listed.split('\n').filter((line) => line.startsWith('/'))];
  const find = (name: string) => folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
  if (find(FIRMWARE[0] ?? '') === undefined)
    throw new Error(`QEMU has no ${FIRMWARE[0]}. Run: apt-get install seabios`);
  return FIRMWARE.map(find).filter((path) => path !== undefined);
}

/** Changes with any of the files, without reading them. */
async function fingerprint(paths: readonly string[]): Promise<string> {
  const hash = createHash('sha256');
  for (const path of paths) {
    const real = await realpath(path);
    const { size, mtimeMs } = await stat(real);
    hash.update(`${path} ${real} ${size} ${mtimeMs}\n`);
  }
  return hash.digest('hex');
}

async function makeFolder(root: string, place: string): Promise<void> {
  if (place === '/' || existsSync(join(root, place))) return;
  await makeFolder(root, dirname(place));
  await mkdir(join(root, place));
  await chmod(join(root, place), 0o755);
}

async function makeFile(root: string, place: string, text: string): Promise<void> {
  await makeFolder(root, dirname(place));
  await writeFile(join(root, place), text);
  await chmod(join(root, place), 0o644);
}

/** The system's, else Debian's unpacked beside the system, else none: doctor names what follows. */
async function setUpBubblewrap(
  context: SetupContext,
  debian: Debian,
): Promise<{ path: string; dir?: string } | undefined> {
  const path = findProgram('bwrap', context.env);
  if (path !== undefined) return { path };
  if (debian.hostRelease === '') {
    context.say('bubblewrap is missing: VMMs will run without a jail. Install the package bubblewrap and run again');
    return undefined;
  }
  return unpackBubblewrap(context, debian);
}

export async function unpackBubblewrap(context: SetupContext, debian: Debian): Promise<{ path: string; dir: string }> {
  const { dir } = await context.steps.product(
    'bubblewrap',
    { recipe: 1, release: debian.hostRelease },
    async (into) => {
      const apt = await debian.hostRoot();
      if (apt === undefined) throw new Error('no apt to take bubblewrap from');
      const debs = join(context.workDir, 'bubblewrap-debs');
      await unpackDebs(await apt.downloadClosure(['bubblewrap'], { into: debs }), into, context);
      await run([join(into, 'usr/bin/bwrap'), '--version'], { env: context.env, signal: context.signal });
    },
  );
  return { path: join(dir, 'usr/bin/bwrap'), dir };
}
