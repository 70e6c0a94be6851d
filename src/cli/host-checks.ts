/**
 * What a server needs of its host: the engine's own checks, and those of folders, ports and programs around it. A check
 * that fails itself becomes a finding, never an exception.
 */
import { accessSync, constants, existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
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

const SET_UP = 'npm run setup';

/** @throws CliError when set-up has not run, before anything is begun */
export function requireSetUp(config: Config): void {
  if (existsSync(join(config.cacheDir, 'runtime', 'runtime.json'))) return;
  const message = `QEMU, the guest kernel and the base image are missing: run "${SET_UP}" once ("rekindle doctor" tells more).`;
  throw new CliError(message, EXIT.hostNotReady);
}

export async function inspectAll(config: Config): Promise<Finding[]> {
  const checks: (() => Finding | Finding[] | Promise<Finding | Finding[]>)[] = [
    node,
    () => engine(config),
    () => stateFolder(config.stateDir),
    () => apiPort(config),
  ];
  const found = checks.map(async (check) => {
    try {
      return await check();
    } catch (error) {
      return { subject: 'check', status: 'note', text: `one could not be made: ${messageOf(error)}` } as const;
    }
  });
  return (await Promise.all(found)).flat();
}

function node(): Finding {
  return { subject: 'node', status: 'ok', text: `${process.version} on ${process.platform} ${process.arch}` };
}

async function engine(config: Config): Promise<Finding[]> {
  const { checkHost } = await import('../main.ts');
  const statuses = { yes: 'ok', degraded: 'note', no: 'missing' } as const;
  return (await checkHost(config)).map(({ id, ok, what, remedy }) => ({
    subject: id,
    status: statuses[ok],
    text: what,
    ...(remedy === '' ? {} : { remedy }),
  }));
}

function stateFolder(folder: string): Finding {
  const subject = 'state folder';
  let existing = folder;
  while (!existsSync(existing) && dirname(existing) !== existing) existing = dirname(existing);
  try {
    accessSync(existing, constants.W_OK);
    return { subject, status: 'ok', text: folder };
  } catch {
    return { subject, status: 'missing', text: `${folder} can not be written`, remedy: 'choose another with --state' };
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
  const remedy = 'start the server with --api-port <n>';
  return { subject, status: 'note', text: `${port} is in use by another program`, remedy };
}
