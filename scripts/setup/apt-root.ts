/**
 * A private apt beside the system's: own sources, lists and caches, the same verification of signatures. With the
 * host's package status it downloads only what the host lacks; with an empty one it downloads whole closures.
 * Invariant: nothing outside its folder is written.
 */
import { copyFile, mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { retry, run } from './command.ts';

export interface AptRootOptions {
  readonly dir: string;
  readonly lines: readonly string[];
  /** Resolve dependencies against the packages of this machine, or against nothing. */
  readonly status: 'host' | 'empty';
  readonly env: NodeJS.ProcessEnv;
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
}

export class AptRoot {
  readonly #options: AptRootOptions;
  readonly #env: NodeJS.ProcessEnv;

  private constructor(options: AptRootOptions, env: NodeJS.ProcessEnv) {
    this.#options = options;
    this.#env = env;
  }

  /** Makes the folder and fetches the package lists. */
  static async create(options: AptRootOptions): Promise<AptRoot> {
    const { dir } = options;
    for (const name of ['state/lists/partial', 'cache/archives/partial', 'etc', 'log']) {
      await mkdir(join(dir, name), { recursive: true });
    }
    await writeFile(join(dir, 'etc/sources.list'), `${options.lines.join('\n')}\n`);
    if (options.status === 'host') await copyFile('/var/lib/dpkg/status', join(dir, 'state/status'));
    else await writeFile(join(dir, 'state/status'), '');
    const acquire = await run(['apt-config', 'dump'], { env: options.env, signal: options.signal });
    const config = join(dir, 'etc/apt.conf');
    await writeFile(config, `${hostAcquireSettings(acquire).join('\n')}\n${privateSettings(dir).join('\n')}\n`);
    const root = new AptRoot(options, { ...options.env, APT_CONFIG: config, LC_ALL: 'C.UTF-8' });
    await retry('package lists', () => root.#apt(['apt-get', '-qq', 'update', '--error-on=any']), options);
    return root;
  }

  /** Downloads packages with what they need and is not in the status; returns the `.deb` files. */
  async downloadClosure(
    packages: readonly string[],
    options: { into: string; targetRelease?: string },
  ): Promise<string[]> {
    const target = options.targetRelease === undefined ? [] : ['-t', options.targetRelease];
    const base: string[] = ['apt-get', '-qq', '-y', ...target, '--no-install-recommends', '--reinstall'];
    await mkdir(join(options.into, 'partial'), { recursive: true });
    const archives = ['-o', `Dir::Cache::archives=${options.into}`];
    await retry(
      `download of ${packages.join(' ')}`,
      () => this.#apt([...base, ...archives, '--download-only', 'install', ...packages]),
      this.#options,
    );
    return debFiles(options.into);
  }

  /** Downloads exactly these packages. */
  async download(packages: readonly string[], options: { into: string }): Promise<string[]> {
    await mkdir(options.into, { recursive: true });
    await retry(
      `download of ${packages.join(' ')}`,
      () => this.#apt(['apt-get', '-qq', 'download', ...packages], options.into),
      this.#options,
    );
    return debFiles(options.into);
  }

  /** The candidate version of a package, or `undefined`. */
  async candidate(name: string): Promise<string | undefined> {
    const output = await this.#apt(['apt-cache', 'madison', name]);
    return output.split('\n')[0]?.split('|')[1]?.trim();
  }

  /** Names of the direct dependencies. */
  async dependencies(name: string): Promise<string[]> {
    const output = await this.#apt(['apt-cache', 'depends', '--important', name]);
    return [...output.matchAll(/^\s+Depends: ([^<\s]+)$/gm)].map((match) => match[1] ?? '');
  }

  /** Names of packages matching a regular expression. */
  async names(pattern: string): Promise<string[]> {
    const output = await this.#apt(['apt-cache', 'search', '--names-only', pattern]);
    return output
      .split('\n')
      .map((line) => line.split(' ')[0] ?? '')
      .filter((name) => name !== '');
  }

  #apt(argv: string[], cwd?: string): Promise<string> {
    return run(argv, { env: this.#env, signal: this.#options.signal, ...(cwd === undefined ? {} : { cwd }) });
  }
}

/** Unpacks `.deb` files over each other into one folder. */
export async function unpackDebs(
  debs: readonly string[],
  into: string,
  options: { env: NodeJS.ProcessEnv; signal: AbortSignal },
): Promise<void> {
  await mkdir(into, { recursive: true });
  for (const deb of debs) await run(['dpkg-deb', '-x', deb, into], options);
}

/** The host's proxy, certificate and time settings, which a private apt needs as much as the system's. */
export function hostAcquireSettings(dump: string): string[] {
  return dump
    .split('\n')
    .filter((line) => /^Acquire::/.test(line) && !/^Acquire::(IndexTargets|Changelogs)/.test(line));
}

function privateSettings(dir: string): string[] {
  return [
    `Dir "${dir}";`,
    `Dir::Etc "${dir}/etc";`,
    'Dir::Etc::SourceList "sources.list";',
    'Dir::Etc::SourceParts "/dev/null";',
    'Dir::Etc::Parts "/dev/null";',
    'Dir::Etc::Main "/dev/null";',
    'Dir::Etc::Preferences "/dev/null";',
    'Dir::Etc::PreferencesParts "/dev/null";',
    `Dir::State "${dir}/state";`,
    `Dir::State::status "${dir}/state/status";`,
    `Dir::Cache "${dir}/cache";`,
    `Dir::Log "${dir}/log";`,
    // Two downloads may go on at once in one root; each has an archive folder of its own.
    'Debug::NoLocking "true";',
    'Dir::Cache::pkgcache "";',
    'Dir::Cache::srcpkgcache "";',
    // The cache folder may be closed to apt's own user, e.g. below /root.
    'APT::Sandbox::User "root";',
    'Acquire::Languages "none";',
    'Acquire::Retries "3";',
  ];
}

async function debFiles(dir: string): Promise<string[]> {
  const names = await readdir(dir);
  return names
    .filter((name) => name.endsWith('.deb'))
    .sort()
    .map((name) => join(dir, name));
}
