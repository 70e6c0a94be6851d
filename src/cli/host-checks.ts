/** What a server needs of its host, each check on its own: a failing one becomes a finding, never an exception. */
import { execFile } from 'node:child_process';
import { accessSync, constants, existsSync, readFileSync, statfsSync } from 'node:fs';
import { createServer } from 'node:net';
import { availableParallelism, freemem, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { type Config, DEFAULT_API_PORT } from '../config.ts';
import { isLocked, readServerRecord } from '../home/index.ts';
import { messageOf } from '../lib/index.ts';
import { CliError, EXIT } from './exit.ts';

export interface Finding {
  readonly subject: string;
  /** `missing` keeps a server from running; `note` is worth knowing. */
  readonly status: 'ok' | 'note' | 'missing';
  readonly text: string;
  readonly remedy?: string;
}

/** @throws CliError when set-up has not run, before anything is begun */
export function requireSetUp(config: Config): void {
  if (readRuntime(config.cacheDir) !== undefined) return;
  const message = `QEMU, the guest kernel and the base image are missing: run "${SET_UP}" once ("rekindle doctor" tells more).`;
  throw new CliError(message, EXIT.hostNotReady);
}

const GIB = 1024 ** 3;
const SET_UP = 'npm run setup';
/** A build's work and a few images. */
const WANTED_DISK_BYTES = 10 * GIB;
/** One small microVM beside a builder machine. */
const WANTED_MEMORY_BYTES = 3 * GIB;

export async function inspectHost(config: Config): Promise<Finding[]> {
  const runtime = readRuntime(config.cacheDir);
  const checks: (() => Finding | Promise<Finding>)[] = [
    node,
    cpus,
    memory,
    () => disk('disk for state', config.stateDir),
    () => disk('disk for the cache', config.cacheDir),
    () => writable(config.stateDir),
    () => setUp(runtime),
    () => qemu(runtime),
    () => accelerator(config),
    ptrace,
    cgroups,
    () => apiPort(config),
  ];
  return Promise.all(
    checks.map(async (check) => {
      try {
        return await check();
      } catch (error) {
        return { subject: check.name || 'check', status: 'note', text: `could not be checked: ${messageOf(error)}` };
      }
    }),
  );
}

function node(): Finding {
  return { subject: 'Node.js', status: 'ok', text: `${process.version} on ${process.platform} ${process.arch}` };
}

function cpus(): Finding {
  const count = availableParallelism();
  const text = `${count}; microVMs get up to four times their baseline, never more than this`;
  return { subject: 'CPUs', status: count < 2 ? 'note' : 'ok', text };
}

function memory(): Finding {
  const available = memoryAvailable();
  const text = `${gib(totalmem())} in all, ${gib(available)} available`;
  if (available >= WANTED_MEMORY_BYTES) return { subject: 'memory', status: 'ok', text };
  return {
    subject: 'memory',
    status: 'note',
    text,
    remedy: `builds want about ${gib(WANTED_MEMORY_BYTES)}: close something or add memory`,
  };
}

function memoryAvailable(): number {
  const match = /^MemAvailable:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'));
  return match?.[1] === undefined ? freemem() : Number(match[1]) * 1024;
}

function disk(subject: string, folder: string): Finding {
  const { bavail, bsize } = statfsSync(existingAncestor(folder));
  const free = bavail * bsize;
  const text = `${gib(free)} free at ${folder}`;
  if (free >= WANTED_DISK_BYTES) return { subject, status: 'ok', text };
  return {
    subject,
    status: 'note',
    text,
    remedy: `${gib(WANTED_DISK_BYTES)} are comfortable: make room, or choose another folder (--state, --cache)`,
  };
}

function writable(folder: string): Finding {
  const subject = 'state folder';
  try {
    accessSync(existingAncestor(folder), constants.W_OK);
    return { subject, status: 'ok', text: folder };
  } catch {
    return { subject, status: 'missing', text: `${folder} can not be written`, remedy: 'choose another with --state' };
  }
}

interface RuntimeFiles {
  readonly qemuBinary: string;
  readonly qemuVersion: string;
  readonly files: readonly string[];
}

/** What set-up recorded; undefined before the first set-up. */
function readRuntime(cacheDir: string): RuntimeFiles | undefined {
  try {
    const { qemu, guest, base, builder } = JSON.parse(readFileSync(join(cacheDir, 'runtime', 'runtime.json'), 'utf8'));
    const files = [qemu.binary, qemu.img, guest.kernel, guest.initramfs, base.disk, builder.disk].map(String);
    return { qemuBinary: qemu.binary, qemuVersion: qemu.version, files };
  } catch {
    return undefined;
  }
}

function setUp(runtime: RuntimeFiles | undefined): Finding {
  const subject = 'set-up';
  if (runtime === undefined) {
    return {
      subject,
      status: 'missing',
      text: 'was not run yet, or not to its end',
      remedy: `${SET_UP} (goes on where it stopped)`,
    };
  }
  const lost = runtime.files.filter((file) => !existsSync(file));
  if (lost.length === 0)
    return { subject, status: 'ok', text: 'QEMU, guest kernel, agent, base image and builder are there' };
  return { subject, status: 'missing', text: `files are gone: ${lost.join(', ')}`, remedy: SET_UP };
}

async function qemu(runtime: RuntimeFiles | undefined): Promise<Finding> {
  const subject = 'QEMU';
  if (runtime === undefined) return { subject, status: 'missing', text: 'comes with set-up', remedy: SET_UP };
  try {
    const { stdout } = await promisify(execFile)(runtime.qemuBinary, ['--version'], { timeout: 10_000 });
    return { subject, status: 'ok', text: stdout.split('\n')[0] ?? runtime.qemuVersion };
  } catch (error) {
    return { subject, status: 'missing', text: `does not start: ${messageOf(error).split('\n')[0]}`, remedy: SET_UP };
  }
}

async function accelerator(_config: Config): Promise<Finding> {
  return { subject: 'accelerator', status: 'note', text: 'not probed' };
}

/** Suspending saves only what changed, which is read from the VMM's memory. */
function ptrace(): Finding {
  const subject = 'reading a child process (ptrace)';
  const path = '/proc/sys/kernel/yama/ptrace_scope';
  const scope = existsSync(path) ? Number(readFileSync(path, 'utf8')) : 0;
  const isRoot = process.getuid?.() === 0;
  if (scope < 2 || (scope === 2 && isRoot)) return { subject, status: 'ok', text: `allowed (scope ${scope})` };
  return {
    subject,
    status: 'note',
    text: `forbidden (scope ${scope}): suspending saves all of a microVM's memory instead of what changed`,
    remedy: 'sysctl kernel.yama.ptrace_scope=1',
  };
}

/** CPU is capped through them. */
function cgroups(): Finding {
  const subject = 'cgroups';
  const version = existsSync('/sys/fs/cgroup/cgroup.controllers')
    ? 'v2'
    : existsSync('/sys/fs/cgroup/cpu')
      ? 'v1'
      : undefined;
  if (version === undefined) return { subject, status: 'note', text: 'none: the CPU of microVMs is not capped' };
  try {
    accessSync(version === 'v2' ? '/sys/fs/cgroup' : '/sys/fs/cgroup/cpu', constants.W_OK);
    return { subject, status: 'ok', text: `${version}, writable` };
  } catch {
    return {
      subject,
      status: 'note',
      text: `${version}, not writable for this user: the CPU of microVMs is not capped`,
    };
  }
}

async function apiPort(config: Config): Promise<Finding> {
  const subject = 'API port';
  const record = readServerRecord(config.stateDir);
  if (record !== undefined && isLocked(config.stateDir)) {
    return { subject, status: 'ok', text: `a server runs on ${record.apiPort} (process ${record.pid})` };
  }
  const port = config.apiPort ?? record?.apiPort ?? DEFAULT_API_PORT;
  const isFree = await new Promise<boolean>((resolve) => {
    const probe = createServer();
    probe.once('error', () => resolve(false));
    probe.listen({ host: '127.0.0.1', port }, () => probe.close(() => resolve(true)));
  });
  if (isFree) return { subject, status: 'ok', text: `${port} is free` };
  return {
    subject,
    status: 'note',
    text: `${port} is in use by another program`,
    remedy: 'start the server with --api-port <n>',
  };
}

function existingAncestor(folder: string): string {
  let path = folder;
  while (!existsSync(path) && dirname(path) !== path) path = dirname(path);
  return path;
}

function gib(bytes: number): string {
  return `${(bytes / GIB).toFixed(1)} GiB`;
}
