/**
 * The Debian side of set-up: which mirror this machine uses, the keyring that verifies it, and the private apt roots of
 * the host's release and of the guests' release, made when first needed.
 */
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AptRoot, unpackDebs } from './apt-root.ts';
import {
  type AptSource,
  type DebianMirror,
  debianLines,
  findDebianMirror,
  parseDeb822,
  parseOneLine,
} from './apt-sources.ts';
import type { SetupContext } from './setup-context.ts';

/** The release inside guests. */
export const GUEST_RELEASE = 'trixie';
const DEFAULT_KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
const GUEST_KEY = '/usr/share/keyrings/debian-archive-trixie-automatic.gpg';

export interface Debian {
  readonly mirror: DebianMirror;
  /** Source lines of the guests' release, with the keyring that verifies them on this machine. */
  guestLines(): Promise<string[]>;
  /** apt for the guests' release, resolving against nothing. */
  guestRoot(): Promise<AptRoot>;
  /** apt for the host's release with backports, resolving against what the host has; `undefined` if not Debian. */
  hostRoot(): Promise<AptRoot | undefined>;
  /** The host's release name, e.g. `bookworm`; empty if not Debian. */
  readonly hostRelease: string;
}

/** @throws Error with what to do when this machine's apt names no Debian mirror. */
export async function findDebian(context: SetupContext): Promise<Debian> {
  const mirror = mirrorFromEnvironment(context.env) ?? findDebianMirror(await readHostSources());
  if (mirror === undefined) {
    throw new Error(
      'no Debian mirror in the apt configuration of this machine. Name one: REKINDLE_DEBIAN_MIRROR=<uri of a Debian archive>, and install debian-archive-keyring.',
    );
  }
  const hostRelease = await readHostRelease();
  const hostKeyring = mirror.keyring ?? DEFAULT_KEYRING;
  const makeRoot = (name: string, lines: readonly string[], status: 'host' | 'empty') =>
    AptRoot.create({ ...context, dir: join(context.workDir, `apt-${name}`), lines, status });

  const hostRoot = once(async () => {
    if (hostRelease === '') return undefined;
    const backports = !['sid', 'forky'].includes(hostRelease);
    return makeRoot('host', debianLines(mirror, hostRelease, hostKeyring, { backports }), 'host');
  });
  const guestKeyring = once(async () => {
    if (hostRelease === GUEST_RELEASE || existsSync(GUEST_KEY)) return hostKeyring;
    return newerKeyring(context, await hostRoot());
  });
  const guestLines = once(async () => debianLines(mirror, GUEST_RELEASE, await guestKeyring()));
  const guestRoot = once(async () => makeRoot('guest', await guestLines(), 'empty'));
  return { mirror, hostRelease, hostRoot, guestLines, guestRoot };
}

/** The host's keyring is older than the guests' release: takes the newer package, verified by the older keys. */
async function newerKeyring(context: SetupContext, host: AptRoot | undefined): Promise<string> {
  const dir = join(context.workDir, 'keyring');
  if (host !== undefined) {
    const debs = await host.download(['debian-archive-keyring'], { into: dir });
    await unpackDebs(debs, join(dir, 'root'), context);
    if (existsSync(join(dir, 'root', GUEST_KEY))) return join(dir, 'root', DEFAULT_KEYRING);
  }
  throw new Error(`the keys of Debian ${GUEST_RELEASE} are missing. Run: apt-get install debian-archive-keyring`);
}

async function readHostSources(): Promise<AptSource[]> {
  const sources: AptSource[] = [];
  const dir = '/etc/apt/sources.list.d';
  const names = existsSync(dir) ? (await readdir(dir)).sort().map((name) => join(dir, name)) : [];
  for (const path of ['/etc/apt/sources.list', ...names]) {
    if (!existsSync(path)) continue;
    const text = await readFile(path, 'utf8');
    if (path.endsWith('.sources')) sources.push(...parseDeb822(text));
    else if (path.endsWith('.list')) sources.push(...parseOneLine(text));
  }
  return sources;
}

async function readHostRelease(): Promise<string> {
  const text = existsSync('/etc/os-release') ? await readFile('/etc/os-release', 'utf8') : '';
  const field = (name: string) => new RegExp(`^${name}="?([^"\n]*)"?$`, 'm').exec(text)?.[1] ?? '';
  return field('ID') === 'debian' ? field('VERSION_CODENAME') : '';
}

function mirrorFromEnvironment(env: NodeJS.ProcessEnv): DebianMirror | undefined {
  const archive = env.REKINDLE_DEBIAN_MIRROR;
  if (archive === undefined || archive === '') return undefined;
  return { archive, security: env.REKINDLE_DEBIAN_SECURITY_MIRROR, keyring: undefined };
}

/** Runs `make` at the first call only; a failure is remembered too. */
function once<T>(make: () => Promise<T>): () => Promise<T> {
  let result: Promise<T> | undefined;
  return () => {
    result ??= make();
    return result;
  };
}
