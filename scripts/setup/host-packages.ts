/**
 * Programs of the host that set-up itself uses. Only what cannot sensibly be unpacked beside the system is asked for; it
 * is installed when this user may, and otherwise the line to run is printed.
 */
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { retry, run } from './command.ts';
import type { SetupContext } from './setup-context.ts';

const NEEDED: readonly { program: string; package: string }[] = [
  { program: 'mmdebstrap', package: 'mmdebstrap' },
  { program: 'mke2fs', package: 'e2fsprogs' },
  { program: 'xz', package: 'xz-utils' },
  { program: 'ldd', package: 'libc-bin' },
  { program: 'tar', package: 'tar' },
  { program: 'dpkg-deb', package: 'dpkg' },
];

/** @throws Error with the line to run when packages are missing and this user may not install them. */
export async function installHostPackages(context: SetupContext): Promise<void> {
  // An ordinary user keeps the owners of files by a namespace with further user ids.
  const needed = process.getuid?.() === 0 ? NEEDED : [...NEEDED, { program: 'newuidmap', package: 'uidmap' }];
  const missing = () => [
    ...new Set(
      needed.filter((need) => findProgram(need.program, context.env) === undefined).map((need) => need.package),
    ),
  ];
  const packages = missing();
  // Certificates come with no program, but apt and Go need them for https.
  if (!existsSync('/etc/ssl/certs/ca-certificates.crt')) packages.push('ca-certificates');
  if (packages.length === 0) return;
  const install = ['apt-get', 'install', '-y', '--no-install-recommends', ...packages];
  const sudo = await privilege(context);
  if (sudo === undefined) {
    throw new Error(`system packages are missing. Run: sudo ${install.join(' ')}`);
  }
  context.say(`system packages: ${packages.join(' ')} ...`);
  const env = { ...context.env, DEBIAN_FRONTEND: 'noninteractive' };
  const options = { env, signal: context.signal };
  await retry(
    'system packages',
    async () => {
      await run([...sudo, 'apt-get', '-qq', 'update'], options);
      await run([...sudo, ...install], options);
    },
    context,
  );
  const still = missing();
  if (still.length > 0) throw new Error(`still missing after the installation: ${still.join(' ')}`);
}

/** Where a program is; also in the folders of root's PATH, which an ordinary user's may lack. */
export function findProgram(name: string, env: NodeJS.ProcessEnv): string | undefined {
  const folders = [...(env.PATH ?? '').split(delimiter), '/usr/local/sbin', '/usr/sbin', '/sbin'];
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

/** The prefix that makes a command run as root, or `undefined` when this user cannot without a password. */
async function privilege(context: SetupContext): Promise<string[] | undefined> {
  if (process.getuid?.() === 0) return [];
  if (findProgram('sudo', context.env) === undefined) return undefined;
  try {
    await run(['sudo', '-n', 'true'], { env: context.env, signal: context.signal, timeoutMs: 10_000 });
    return ['sudo', '-n'];
  } catch {
    context.signal.throwIfAborted();
    return undefined;
  }
}
