/**
 * QEMU 10 or newer: the system's when it is new enough, else Debian's packages unpacked beside the system, with the
 * libraries the host lacks next to them.
 */
import { existsSync } from 'node:fs';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { unpackDebs } from './apt-root.ts';
import { run } from './command.ts';
import type { Debian } from './debian.ts';
import { findProgram } from './host-packages.ts';
import type { SetupContext } from './setup-context.ts';

const OLDEST_MAJOR = 10;
const PACKAGES = ['qemu-system-x86', 'qemu-system-common', 'qemu-system-data', 'qemu-utils', 'seabios'];
const TRIPLET = 'x86_64-linux-gnu';

export interface Qemu {
  readonly binary: string;
  readonly img: string;
  readonly dataDirs: readonly string[];
  readonly version: string;
  /** Folder of the unpacked product; `undefined` for the system's. */
  readonly dir: string | undefined;
}

export async function setUpQemu(context: SetupContext, debian: Debian): Promise<Qemu> {
  return (await systemQemu(context)) ?? unpackedQemu(context, debian);
}

async function systemQemu(context: SetupContext): Promise<Qemu | undefined> {
  const binary = findProgram('qemu-system-x86_64', context.env);
  const img = findProgram('qemu-img', context.env);
  if (binary === undefined || img === undefined) return undefined;
  const version = await versionOf(binary, context);
  return isNewEnough(version) ? { binary, img, dataDirs: [], version, dir: undefined } : undefined;
}

async function unpackedQemu(context: SetupContext, debian: Debian): Promise<Qemu> {
  const product = await context.steps.product('qemu', { recipe: 1, release: debian.hostRelease }, async (dir) => {
    const apt = await debian.hostRoot();
    if (apt === undefined) throw new Error(`QEMU ${OLDEST_MAJOR} or newer is needed and only Debian's can be unpacked`);
    const debs = join(context.workDir, 'qemu-debs');
    const candidates = await apt.candidate('qemu-system-x86');
    const backports = isNewEnough(candidates?.replace(/^\d+:/, '') ?? '')
      ? `${debian.hostRelease}-backports`
      : undefined;
    const target = backports === undefined ? {} : { targetRelease: backports };
    await unpackDebs(await apt.downloadClosure(PACKAGES, { into: debs, ...target }), dir, context);
    await wrapIfNeeded(context, dir);
    const version = await versionOf(binaryIn(dir, 'qemu-system-x86_64'), context);
    if (!isNewEnough(version)) throw new Error(`this machine's apt offers QEMU ${version}; ${OLDEST_MAJOR} is needed`);
    await writeFile(join(dir, 'version'), version);
  });
  const { dir } = product;
  return {
    binary: binaryIn(dir, 'qemu-system-x86_64'),
    img: binaryIn(dir, 'qemu-img'),
    dataDirs: [join(dir, 'usr/share/qemu'), join(dir, 'usr/share/seabios')],
    version: await readFile(join(dir, 'version'), 'utf8'),
    dir,
  };
}

/** A wrapper where the program needs unpacked libraries, else the program itself. */
function binaryIn(dir: string, name: string): string {
  const wrapper = join(dir, 'bin', name);
  return existsSync(wrapper) ? wrapper : join(dir, 'usr/bin', name);
}

/**
 * Writes starters that add the unpacked libraries to the search path, when the host alone does not satisfy the
 * programs. They exec, so the process is QEMU's own. Relative to their own place, since the folder is renamed when done.
 */
async function wrapIfNeeded(context: SetupContext, dir: string): Promise<void> {
  const programs = ['qemu-system-x86_64', 'qemu-img'];
  const unpacked = `${join(dir, 'usr/lib', TRIPLET)}:${join(dir, 'lib', TRIPLET)}`;
  for (const name of programs) {
    const path = join(dir, 'usr/bin', name);
    if ((await missingLibraries(context, path, context.env)).length === 0) continue;
    const missing = await missingLibraries(context, path, { ...context.env, LD_LIBRARY_PATH: unpacked });
    if (missing.length > 0) throw new Error(`${name} lacks libraries: ${missing.join(' ')}`);
    await mkdir(join(dir, 'bin'), { recursive: true });
    const starter = join(dir, 'bin', name);
    const text = [
      '#!/bin/sh',
      `dir=\${0%/bin/${name}}`,
      `LD_LIBRARY_PATH=$dir/usr/lib/${TRIPLET}:$dir/lib/${TRIPLET} exec "$dir/usr/bin/${name}" "$@"`,
      '',
    ];
    await writeFile(starter, text.join('\n'));
    await chmod(starter, 0o755);
  }
}

async function missingLibraries(context: SetupContext, program: string, env: NodeJS.ProcessEnv): Promise<string[]> {
  const output = await run(['ldd', program], { env, signal: context.signal });
  return [...output.matchAll(/^\s*(\S+) => not found$/gm)].map((match) => match[1] ?? '');
}

async function versionOf(binary: string, context: SetupContext): Promise<string> {
  const output = await run([binary, '--version'], { env: context.env, signal: context.signal, timeoutMs: 30_000 });
  return /version (\d+\.\d+\.\d+)/.exec(output)?.[1] ?? '0';
}

function isNewEnough(version: string): boolean {
  return Number.parseInt(version, 10) >= OLDEST_MAJOR;
}
