/**
 * A real server in a child process, started the way a script would start it, and the clients that talk to it with what
 * `rekindle env` prints. Owns the process and its state folder: disposing leaves neither.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { LambdaMicrovms } from '@aws-sdk/client-lambda-microvms';
import { S3 } from '@aws-sdk/client-s3';
import { openRelay, type Relay } from './namespace-relay.ts';
import type { Namespace } from './network.ts';

export const repository = join(import.meta.dirname, '../..');
const rekindle = join(repository, 'bin/rekindle');
const READY_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 60_000;
/** Emulated and beside others, a compiler that builds its library first takes a quarter of an hour. */
const RUN_TIMEOUT_MS = 1_800_000;

export interface TestServer extends AsyncDisposable {
  readonly stateDir: string;
  readonly pid: number;
  /** What `rekindle env` printed. */
  readonly env: Readonly<Record<string, string>>;
  readonly microvms: LambdaMicrovms;
  readonly s3: S3;
  /** The way to a server in a network namespace. */
  readonly relay: Relay | undefined;
  /** The server's log so far. */
  log(): string;
  /** SIGTERM; resolves with the exit code. */
  stop(): Promise<number | null>;
}

export interface TestServerOptions {
  /** Kept by the caller; without it a temporary one is made and removed. */
  readonly stateDir?: string;
  readonly args?: readonly string[];
  /** Where it runs; clients here reach it all the same. */
  readonly namespace?: Namespace;
  /** A file whose text it takes for the id of the host's boot. Needs root. */
  readonly bootIdFile?: string;
  /** Beside what this process has. */
  readonly environment?: Readonly<Record<string, string>>;
}

export async function startServer(options: TestServerOptions = {}): Promise<TestServer> {
  await using stack = new AsyncDisposableStack();
  const stateDir = options.stateDir ?? (await mkdtemp(join(tmpdir(), 'rekindle-test-')));
  if (options.stateDir === undefined) stack.defer(() => rm(stateDir, { recursive: true, force: true }));

  const args = ['serve', '--state', stateDir, '--api-port', '0', ...(options.args ?? [])];
  const command = inBoot(options.bootIdFile, [rekindle, ...args]);
  const [program = '', ...rest] = options.namespace?.command(command) ?? command;
  const child = spawn(program, rest, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.environment },
  });
  stack.defer(async () => void (await end(child)));
  const log: string[] = [];
  child.stderr.setEncoding('utf8').on('data', (text: string) => log.push(text));
  await ready(child, log);

  const env = await printedEnvironment(stateDir);
  const credentials = { accessKeyId: env.AWS_ACCESS_KEY_ID ?? '', secretAccessKey: env.AWS_SECRET_ACCESS_KEY ?? '' };
  const region = env.AWS_REGION ?? '';
  const relay = options.namespace && (await openRelay(stack, options.namespace, join(stateDir, 'relay.sock')));
  const common = { region, credentials, ...(relay && { requestHandler: { httpAgent: relay.http } }) };
  const microvms = new LambdaMicrovms({ endpoint: env.AWS_ENDPOINT_URL_LAMBDA_MICROVMS ?? '', ...common });
  const s3 = new S3({ endpoint: env.AWS_ENDPOINT_URL_S3 ?? '', ...common });
  stack.defer(() => {
    microvms.destroy();
    s3.destroy();
  });

  const owned = stack.move();
  return {
    stateDir,
    pid: child.pid ?? 0,
    env,
    microvms,
    s3,
    relay,
    log: () => log.join(''),
    stop: () => end(child),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** The same process in the end, with a mount of its own. */
function inBoot(bootIdFile: string | undefined, command: readonly string[]): readonly string[] {
  if (bootIdFile === undefined) return command;
  const script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"';
  return ['unshare', '--mount', 'sh', '-c', script, bootIdFile, ...command];
}

/** Runs `rekindle` with arguments and gives back what it printed; rejects with both streams when it fails. */
export async function run(...args: readonly string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(rekindle, [...args], {
    timeout: RUN_TIMEOUT_MS,
    maxBuffer: 64 * 1024 * 1024,
  });
  return stdout;
}

async function printedEnvironment(stateDir: string): Promise<Record<string, string>> {
  const text = await run('env', '--state', stateDir);
  const env: Record<string, string> = {};
  for (const line of text.split('\n')) {
    const match = /^export ([A-Z0-9_]+)='?(.*?)'?$/.exec(line);
    if (match?.[1] !== undefined) env[match[1]] = match[2] ?? '';
  }
  return env;
}

async function ready(child: ChildProcess, log: readonly string[]): Promise<void> {
  const { stdout } = child;
  if (stdout === null) throw new Error('the server has no standard output');
  const lines = createInterface({ input: stdout });
  const line = new Promise<void>((resolve) =>
    lines.on('line', (text) => text.startsWith('rekindle ready') && resolve()),
  );
  const exited = once(child, 'exit').then(([code]) => {
    throw new Error(`the server exited with ${code} before it was ready:\n${log.join('').slice(-4000)}`);
  });
  exited.catch(() => {});
  const late = AbortSignal.timeout(READY_TIMEOUT_MS);
  const timeout = once(late, 'abort').then(() => {
    throw new Error(`the server was not ready within ${READY_TIMEOUT_MS} ms:\n${log.join('').slice(-4000)}`);
  });
  timeout.catch(() => {});
  await Promise.race([line, exited, timeout]);
}

async function end(child: ChildProcess): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) {
    const exited = once(child, 'exit');
    child.kill('SIGTERM');
    const force = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await exited;
    clearTimeout(force);
  }
  return child.exitCode;
}
