/**
 * The Python clients of the contract tests, boto3 and the AWS CLI, at the versions of `test/contract/requirements.txt`: in a
 * virtual environment below the cache folder, made once.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { retry, run } from '../setup/command.ts';
import { acquireLock } from '../setup/lock.ts';

export type PythonClients =
  | { readonly kind: 'ready'; readonly python: string; readonly aws: string }
  /** Why tests that need them are skipped. */
  | { readonly kind: 'missing'; readonly reason: string };

const requirements = join(import.meta.dirname, '../../test/contract/requirements.txt');
const COMPLETE = 'complete';

/** Makes them when they are not there; `say` prints a progress line. @throws Error when the packages cannot be had */
export async function setUpPythonClients(options: {
  env: NodeJS.ProcessEnv;
  signal: AbortSignal;
  say: (line: string) => void;
}): Promise<PythonClients> {
  const { env, signal, say } = options;
  const cacheDir = env.REKINDLE_CACHE ?? join(env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'rekindle');
  const python = await pythonVersion(env, signal);
  if (python === undefined) return { kind: 'missing', reason: 'python3 is not installed' };
  const list = await readFile(requirements, 'utf8');
  const stamp = createHash('sha256').update(`${python}\n${list}`).digest('hex').slice(0, 16);
  const parent = join(cacheDir, 'python');
  const dir = join(parent, stamp);
  const ready: PythonClients = { kind: 'ready', python: join(dir, 'bin/python'), aws: join(dir, 'bin/aws') };
  if (existsSync(join(dir, COMPLETE))) return ready;

  await mkdir(parent, { recursive: true });
  using _lock = await acquireLock(join(parent, 'lock'), { signal, onWait: () => say('python clients: waiting ...') });
  if (existsSync(join(dir, COMPLETE))) return ready;
  const startedAt = performance.now();
  say('python clients (boto3, AWS CLI) ...');
  // Such an environment holds its own path, so it is made in place and marked when whole.
  for (const entry of await readdir(parent, { withFileTypes: true })) {
    if (entry.isDirectory()) await rm(join(parent, entry.name), { recursive: true, force: true });
  }
  try {
    await run(['python3', '-m', 'venv', dir], { env, signal });
  } catch (error) {
    signal.throwIfAborted();
    const message = error instanceof Error ? error.message : String(error);
    return { kind: 'missing', reason: `python3 cannot make virtual environments: ${message.split('\n').at(-1)}` };
  }
  const install = [join(dir, 'bin/pip'), 'install', '--no-input', '--quiet', '--requirement', requirements];
  await retry('python clients', () => run(install, { env, signal }), { signal, say });
  await writeFile(join(dir, COMPLETE), '');
  say(`python clients (boto3, AWS CLI) ... ${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
  return ready;
}

async function pythonVersion(env: NodeJS.ProcessEnv, signal: AbortSignal): Promise<string | undefined> {
  try {
    return await run(['python3', '--version'], { env, signal });
  } catch {
    signal.throwIfAborted();
    return undefined;
  }
}
