/**
 * Debian root file systems (mmdebstrap) and ext4 disks made from them, equal bit by bit for equal contents. An ordinary
 * user does the same work inside a user namespace, where the files of root and others keep their owners.
 */
import { readFile } from 'node:fs/promises';
import { retry, run } from './command.ts';
import type { Debian } from './debian.ts';
import { GUEST_RELEASE } from './debian.ts';
import { type SetupContext, SOURCE_DATE_EPOCH } from './setup-context.ts';

export interface DebianTreeOptions {
  readonly variant: 'apt' | 'minbase' | 'essential';
  readonly include: readonly string[];
  /** Shell script that finishes the tree, which it is given as `$1`. */
  readonly customize: string;
  /** Texts it finds in its environment. */
  readonly texts?: Readonly<Record<string, string>>;
  /** Options dpkg works with, also later inside the tree. */
  readonly dpkgOptions?: readonly string[];
  readonly tar: string;
}

/** Makes a tar of a fresh Debian root. Signatures are verified with the keyring named in the source lines. */
export async function makeDebianTar(context: SetupContext, debian: Debian, options: DebianTreeOptions): Promise<void> {
  const lines = await debian.guestLines();
  const argv: string[] = [
    'mmdebstrap',
    '--quiet',
    `--mode=${isRoot() ? 'root' : 'unshare'}`,
    `--variant=${options.variant}`,
    `--include=${options.include.join(',')}`,
    '--skip=output/dev',
    '--aptopt=Acquire::Languages "none"',
    ...(options.dpkgOptions ?? []).map((option) => `--dpkgopt=${option}`),
    // As text: inside its namespace an ordinary user's mmdebstrap may not see a clone below a closed home.
    `--customize-hook=${await readFile(options.customize, 'utf8')}`,
    '--format=tar',
    GUEST_RELEASE,
    options.tar,
    ...lines,
  ];
  const TMPDIR = isRoot() ? context.workDir : '/tmp';
  const env = { ...context.env, ...(await proxyOf(context)), SOURCE_DATE_EPOCH, TMPDIR };
  await retry(
    `Debian ${GUEST_RELEASE}`,
    () =>
      run(argv, {
        env: { ...env, ...options.texts, REKINDLE_MIRROR_LINES: guestSources(lines) },
        signal: context.signal,
      }),
    context,
  );
}

export interface DiskOptions {
  /** Unpacked one over the other. */
  readonly tars: readonly string[];
  readonly disk: string;
  readonly sizeGiB: number;
  /** Also the seed of the directory hashes: fixed, so that equal trees give equal disks. */
  readonly uuid: string;
}

/** Makes a sparse raw ext4 disk from tars, with owners, modes, hard links and extended attributes. */
export async function makeDisk(context: SetupContext, options: DiskOptions): Promise<void> {
  const tree = `${options.disk}.tree`;
  const env = { ...context.env, SOURCE_DATE_EPOCH, E2FSPROGS_FAKE_TIME: SOURCE_DATE_EPOCH };
  const privileged = (...argv: string[]) => run([...asRoot(), ...argv], { env, signal: context.signal });
  try {
    await privileged('mkdir', tree);
    for (const tar of options.tars) {
      await privileged('tar', '--xattrs', '--xattrs-include=*', '--numeric-owner', '-xpf', tar, '-C', tree);
    }
    await privileged('touch', '-d', `@${SOURCE_DATE_EPOCH}`, tree);
    await run(['truncate', '-s', `${options.sizeGiB}G`, options.disk], { env, signal: context.signal });
    // A new sparse file reads as zeros: nothing has to be cleared now, nor by the guest's kernel in the background.
    const extended = `hash_seed=${options.uuid},assume_storage_prezeroed=1,root_owner=0:0`;
    const format = ['-q', '-F', '-t', 'ext4', '-b', '4096', '-m', '0', '-J', 'size=16', '-U', options.uuid];
    await privileged('mke2fs', ...format, '-E', extended, '-d', tree, options.disk);
  } finally {
    await run([...asRoot(), 'rm', '-rf', tree], {
      env,
      signal: AbortSignal.timeout(300_000),
    });
  }
}

/** Packs a folder as root's, with fixed times and order. */
export async function packTar(context: SetupContext, folder: string, tar: string): Promise<void> {
  const owner = ['--owner=0', '--group=0', '--numeric-owner', '--sort=name', `--mtime=@${SOURCE_DATE_EPOCH}`];
  await run(['tar', ...owner, '--mode=go=rX,u+rw', '-C', folder, '-cf', tar, '.'], {
    env: context.env,
    signal: context.signal,
  });
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

/** Root of a namespace that has further users (subuid), so that every owner in a tree can be kept. */
function asRoot(): string[] {
  return isRoot() ? [] : ['unshare', '--map-root-user', '--map-auto'];
}

/** The same sources for the tree's own apt, which has its own keyring. */
function guestSources(lines: readonly string[]): string {
  const keyring = 'signed-by=/usr/share/keyrings/debian-archive-keyring.gpg';
  return lines.map((line) => line.replace(/signed-by=[^\]\s]+/, keyring)).join('\n');
}

/** mmdebstrap runs apt without the host's configuration: hands its proxies on by the environment. */
async function proxyOf(context: SetupContext): Promise<NodeJS.ProcessEnv> {
  const dump = await run(['apt-config', 'dump'], { env: context.env, signal: context.signal });
  const proxy = (scheme: string) => new RegExp(`^Acquire::${scheme}::Proxy "([^"]+)";$`, 'mi').exec(dump)?.[1];
  const http = proxy('http');
  const https = proxy('https');
  return {
    ...(http === undefined ? {} : { http_proxy: http }),
    ...(https === undefined ? {} : { https_proxy: https }),
  };
}
