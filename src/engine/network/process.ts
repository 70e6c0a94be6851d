/**
 * The gateway's process: started so that it outlives the server, known again by what is on record of it, ended by its own
 * process id and no other's.
 *
 * Invariant: a record names a process by id and start time; whoever has that id now but started at another time is left alone.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { type FileHandle, lstat, open, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { MachineError, sleep } from '../../lib/index.ts';
import { type Command, type Confinement, commandFor, type Start } from './confinement.ts';
import type { Places } from './places.ts';

/** From fork to the line that names the process. */
const START_TIMEOUT_MS = 10_000;
const END_POLL_MS = 10;
/** It has flows to log when it ends. */
const TERM_TIMEOUT_MS = 2000;
const KILL_TIMEOUT_MS = 5000;
const MAX_LOG_BYTES = 1024 * 1024;
const LAST_WORDS = 2000;
/** In the gateway's folder (`gateway/control/socket.go`). */
const LOCK = 'lock';

export interface GatewayProcess {
  readonly pid: number;
  readonly startedAtTicks: number;
}

export interface GatewayRecord extends GatewayProcess {
  /** What it was started as; another one is started when this differs. */
  readonly program: string;
  readonly config: string;
  readonly confinement: Confinement;
}

export interface Started {
  readonly record: GatewayRecord;
  /** Resolves with its last words when it has ended; never rejects. */
  readonly exited: Promise<string>;
}

/** The gateway on record, when it lives. */
export async function findGateway(recordPath: string): Promise<GatewayRecord | undefined> {
  const record = await readRecord(recordPath);
  return record !== undefined && isAlive(record) ? record : undefined;
}

/**
 * The gateway that holds the lock of its folder, on record or not: a server that was killed in the moment it started one did
 * not come to write it down, and while that one lives no other can serve the folder. The folder is the gateway's own, which is
 * not trusted: a link in place of the lock would have any process ended that holds a lock somewhere.
 */
export async function lockHolder({ dir }: Pick<Places, 'dir'>): Promise<GatewayProcess | undefined> {
  try {
    const lock = await lstat(path.join(dir, LOCK), { bigint: true });
    if (!lock.isFile() || lock.nlink !== 1n) return undefined;
    const { dev, ino } = lock;
    const [major, minor] = [(dev >> 8n) & 0xfffn, (dev & 0xffn) | ((dev >> 12n) & 0xfff00n)];
    const hex = (number: bigint) => number.toString(16).padStart(2, '0');
    const file = `${hex(major)}:${hex(minor)}:${ino} `;
    const line = (await readFile('/proc/locks', 'latin1')).split('\n').find((one) => one.includes(` ${file}`));
    const pid = Number(/FLOCK +ADVISORY +WRITE +(\d+)/.exec(line ?? '')?.[1]);
    const startedAtTicks = pid > 1 ? startTicks(pid) : undefined;
    return startedAtTicks === undefined ? undefined : { pid, startedAtTicks };
  } catch {
    return undefined;
  }
}

/** @throws MachineError `exited` with its last words when it ends before it can be named */
export async function startGateway(kind: Confinement, start: Start, config: string): Promise<Started> {
  const { places } = start;
  await using stack = new AsyncDisposableStack();
  const log = stack.use(await openLog(places.log));
  const command = await commandFor(kind, start);
  const inherited: FileHandle[] = [];
  for (const file of command.opens) inherited.push(stack.use(await open(file, 'r')));
  const child = spawn(command.program, [...command.args], {
    // Nothing of the server's environment: role credentials may come from there.
    env: {},
    cwd: '/',
    detached: true,
    stdio: [
      'ignore',
      'ignore',
      log.fd,
      ...(command.infoFd === undefined ? inherited.map(({ fd }) => fd) : ['pipe' as const]),
    ],
    ...(command.uid === undefined ? {} : { uid: command.uid, gid: command.uid }),
  });
  child.unref();
  const exited = exitOf(child, places.log);
  const pid = await Promise.race([pidOf(child, command), exited.then(refuse), tooLate()]);
  const record = { pid, startedAtTicks: startTicks(pid) ?? 0, program: start.program, config, confinement: kind };
  await writeFile(places.record, `${JSON.stringify(record)}\n`, { mode: 0o600 });
  return { record, exited };
}

/** Asks, unless that is known to be in vain, then forces. Resolves when it is gone. @throws MachineError when it does not die */
export async function endGateway(record: GatewayProcess, recordPath: string, { asks = true } = {}): Promise<void> {
  for (const [signal, waitMs] of [
    ['SIGTERM', asks ? TERM_TIMEOUT_MS : 0],
    ['SIGKILL', KILL_TIMEOUT_MS],
  ] as const) {
    for (let waited = 0; isAlive(record); waited += END_POLL_MS) {
      if (waited === 0) kill(record.pid, signal);
      if (waited >= waitMs) break;
      await sleep(END_POLL_MS);
    }
  }
  if (isAlive(record)) throw new MachineError('failed', `the network gateway (process ${record.pid}) does not end`);
  await rm(recordPath, { force: true });
}

export function isAlive({ pid, startedAtTicks }: GatewayProcess): boolean {
  return startTicks(pid) === startedAtTicks;
}

async function readRecord(file: string): Promise<GatewayRecord | undefined> {
  try {
    const record = JSON.parse(await readFile(file, 'utf8')) as GatewayRecord;
    return Number.isSafeInteger(record.pid) && record.pid > 1 ? record : undefined;
  } catch {
    return undefined;
  }
}

/** When a process began, in clock ticks since the host's boot; undefined when there is none. */
function startTicks(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    // A zombie has ended; it only waits for its parent.
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : Number(fields[19]);
  } catch {
    return undefined;
  }
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // ended meanwhile
  }
}

/** Bubblewrap tells the id of the process it made; without it the child is the gateway. */
async function pidOf(child: ChildProcess, { infoFd }: Command): Promise<number> {
  if (child.pid === undefined) return new Promise<never>(() => {});
  if (infoFd === undefined) return child.pid;
  let text = '';
  for await (const chunk of (child.stdio[infoFd] as Readable).setEncoding('utf8')) text += String(chunk);
  const pid = Number(/"child-pid": *(\d+)/.exec(text)?.[1]);
  // Without a number it has failed, and its exit says why.
  return pid > 1 ? pid : new Promise<never>(() => {});
}

function exitOf(child: ChildProcess, logPath: string): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => {
      const how = signal === null ? `ended with code ${code}` : `was ended by ${signal}`;
      void lastWords(logPath).then((words) => resolve(`${how}${words === '' ? '' : `: ${words}`}`));
    });
  });
}

async function lastWords(logPath: string): Promise<string> {
  const text = await readFile(logPath, 'utf8').catch(() => '');
  return text.slice(-LAST_WORDS).trimEnd();
}

function refuse(how: string): never {
  throw new MachineError('exited', 'the network gateway did not start', { evidence: how });
}

async function tooLate(): Promise<never> {
  const { promise, reject } = Promise.withResolvers<never>();
  const error = new MachineError('timeout', 'the network gateway did not start in time');
  setTimeout(reject, START_TIMEOUT_MS, error).unref();
  return promise;
}

/** A file and not a pipe: the gateway goes on when the server is gone. */
async function openLog(file: string): Promise<FileHandle> {
  const log = await open(file, 'a', 0o600);
  const { size } = await log.stat();
  if (size > MAX_LOG_BYTES) await log.truncate(0);
  return log;
}
