/**
 * A network of this machine's own for tests: three network namespaces joined by virtual cables. `host` is where the server
 * under test runs; behind it lie `internet` (addresses that look public; nothing leaves this machine) and `private`
 * (10.9.0.0/16). Servers answer there by HTTP, TLS, UDP and DNS.
 *
 * Invariant: a namespace lives as long as its holder, and holders and servers end with their standard input, so that nothing
 * is left however a test ends.
 */
import { type ChildProcess, execFile, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { promisify } from 'node:util';
import type { ServersPlan } from './network-servers.ts';

const run = promisify(execFile);
const READY_TIMEOUT_MS = 20_000;

/** Who is where. */
export const ADDRESSES = {
  /** The host under test as the internet and the private network see it. */
  host: '93.184.216.2',
  hostPrivate: '10.9.0.1',
  internet: '93.184.216.34',
  /** A second server there, for what is allowed by one address and not the other. */
  internetToo: '93.184.216.35',
  private: '10.9.0.2',
  /** A cloud's metadata service, reachable from the host. */
  metadata: '169.254.169.254',
} as const;

/** What the DNS server on `ADDRESSES.internet` says; further names can be given. */
export const NAMES: Readonly<Record<string, readonly string[]>> = {
  'www.example.com': [ADDRESSES.internet],
  'other.example.com': [ADDRESSES.internetToo],
  'rebind.example.com': [ADDRESSES.private],
  'host.example.com': [ADDRESSES.host],
  'metadata.example.com': [ADDRESSES.metadata],
};

export interface Namespace {
  /** Of the process that holds it. */
  readonly pid: number;
  /** The arguments that run a program in it. */
  command(argv: readonly string[]): string[];
  spawn(argv: readonly string[], options?: SpawnOptions): ChildProcess;
  /** Runs a program to its end and gives what it printed. @throws Error when it fails */
  run(argv: readonly string[]): Promise<string>;
}

export interface TestNetwork extends AsyncDisposable {
  readonly host: Namespace;
  readonly internet: Namespace;
  readonly private: Namespace;
}

/** Why there can be no such network here, for `skip`. */
export function networkSkip(): string | false {
  return process.geteuid?.() === 0 ? false : 'network namespaces with addresses of their own need root';
}

export async function createTestNetwork(
  options: { names?: Readonly<Record<string, readonly string[]>> } = {},
): Promise<TestNetwork> {
  await using stack = new AsyncDisposableStack();
  const [host, internet, inner] = [await holdNamespace(stack), await holdNamespace(stack), await holdNamespace(stack)];
  for (const { run } of [host, internet, inner]) await run(['ip', 'link', 'set', 'lo', 'up']);
  await cable(host, 'inet', [`${ADDRESSES.host}/24`], internet, [
    ...[`${ADDRESSES.internet}/24`, `${ADDRESSES.internetToo}/24`, `${ADDRESSES.metadata}/32`],
  ]);
  await cable(host, 'priv', [`${ADDRESSES.hostPrivate}/16`], inner, [`${ADDRESSES.private}/16`]);
  await host.run(['ip', 'route', 'add', 'default', 'via', ADDRESSES.internet]);
  await host.run(['ip', 'route', 'add', `${ADDRESSES.metadata}/32`, 'dev', 'inet']);
  await inner.run(['ip', 'route', 'add', 'default', 'via', ADDRESSES.hostPrivate]);
  const names = { ...NAMES, ...options.names };
  await startServers(stack, internet, { place: 'internet', names });
  await startServers(stack, inner, { place: 'private', names });
  await startServers(stack, host, { place: 'host', names: {} });
  const owned = stack.move();
  return { host, internet, private: inner, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** A namespace with nothing in it. It ends with `stack`. */
export async function holdNamespace(stack: AsyncDisposableStack): Promise<Namespace> {
  const holder = spawn('unshare', ['--net', 'cat'], { stdio: ['pipe', 'pipe', 'inherit'] });
  stack.defer(() => ended(holder));
  // The echo says that the namespace is there.
  holder.stdin.write('\n');
  await Promise.race([
    once(holder.stdout, 'data'),
    once(holder, 'exit').then(() => Promise.reject(new Error('unshare failed'))),
  ]);
  const pid = holder.pid ?? 0;
  const command = (argv: readonly string[]) => ['nsenter', `--net=/proc/${pid}/ns/net`, '--', ...argv];
  const start = ([program = '', ...args]: readonly string[], options: SpawnOptions = {}) =>
    spawn(program, args, options);
  return {
    pid,
    command,
    spawn: (argv, given) => start(command(argv), given),
    run: async (argv) => {
      const [program = '', ...args] = command(argv);
      return (await run(program, args)).stdout;
    },
  };
}

/** Joins two namespaces; the near end is named, the far one is `net0`. */
async function cable(
  near: Namespace,
  name: string,
  nearAddresses: readonly string[],
  far: Namespace,
  farAddresses: readonly string[],
): Promise<void> {
  const peer = ['peer', 'name', 'net0', 'netns', `${far.pid}`];
  await run('ip', ['link', 'add', name, 'netns', `${near.pid}`, 'type', 'veth', ...peer]);
  for (const [end, device, addresses] of [
    [near, name, nearAddresses],
    [far, 'net0', farAddresses],
  ] as const) {
    for (const address of addresses) await end.run(['ip', 'address', 'add', address, 'dev', device]);
    await end.run(['ip', 'link', 'set', 'dev', device, 'up']);
  }
}

/** Starts the servers of one place; they end with `stack`. */
export async function startServers(stack: AsyncDisposableStack, at: Namespace, plan: ServersPlan): Promise<void> {
  const script = join(import.meta.dirname, 'network-servers.ts');
  const child = at.spawn([process.execPath, script, JSON.stringify(plan)], { stdio: ['pipe', 'pipe', 'inherit'] });
  stack.defer(() => ended(child));
  const lines = createInterface({ input: child.stdout as Readable });
  const exited = once(child, 'exit').then(() => ['its process ended']);
  const [line] = await Promise.race([once(lines, 'line', { signal: AbortSignal.timeout(READY_TIMEOUT_MS) }), exited]);
  if (line !== 'ready') throw new Error(`the servers of ${plan.place} did not start: ${line}`);
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.stdin?.end();
  child.kill('SIGKILL');
  await exit;
}
