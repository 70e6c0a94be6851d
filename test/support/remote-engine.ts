/**
 * An engine in another process, so that it can run in a network namespace: the calls tests need, by Node's IPC channel. Its
 * guests run a small app that executes Python for the test, with one set of variables for all calls, so that a connection
 * opened by one can be read by the next.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { ContainerConfig, Egress, FlowRecord, NetworkSettings } from '../../src/engine/index.ts';
import type { Namespace } from './network.ts';

export interface Setting {
  readonly stateDir: string;
  readonly network: NetworkSettings;
  /** Of the operator; absent: none. */
  readonly registriesFile?: string;
}

export interface Built {
  /** Its last line says why it failed, if it did. */
  readonly log: string;
  /** Null when it failed. */
  readonly config: ContainerConfig | null;
}

/** What the process on the other side does; everything in it can be sent. */
export interface Calls {
  open(setting: Setting): Promise<void>;
  /** Builds a Dockerfile and throws the disk away; resolves with the log, whose last line says why it failed, if it did. */
  build(dockerfile: string, egress: Egress | null): Promise<string>;
  /** The same for a whole context: files by path with their text in base64. */
  buildContext(files: Readonly<Record<string, string>>, egress: Egress | null): Promise<Built>;
  /** A snapshot of the app that all guests run. */
  seal(capabilities: 'default' | 'all', egress: Egress | null): Promise<void>;
  /** Resolves with how long it took, in ms. */
  launch(id: string, egress: Egress | null): Promise<number>;
  suspend(id: string): Promise<void>;
  resume(id: string, egress: Egress | null): Promise<number>;
  end(id: string): Promise<void>;
  setEgress(id: string, egress: Egress): Promise<void>;
  flows(id: string): Promise<FlowRecord[]>;
  /** Runs Python in the guest as the app's user; resolves with what it printed, or the traceback. */
  python(id: string, code: string): Promise<string>;
  close(): Promise<void>;
}

export type Question = { readonly id: number; readonly call: keyof Calls; readonly args: readonly unknown[] };
export type Answer = { readonly id: number; readonly result?: unknown; readonly error?: string };

export interface RemoteEngine extends Omit<Calls, 'open' | 'close'>, AsyncDisposable {
  readonly pid: number;
  /** What the process has logged so far. */
  log(): string;
}

export async function openRemoteEngine(at: Namespace, setting: Setting): Promise<RemoteEngine> {
  const script = join(import.meta.dirname, 'remote-engine-worker.ts');
  const [program = '', ...args] = at.command([process.execPath, script]);
  const child = spawn(program, args, { stdio: ['ignore', 'inherit', 'pipe', 'ipc'] });
  let log = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    log += text;
  });
  const calls = callsTo(child);
  const close = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    await calls.close().finally(() => child.disconnect());
    await exited;
  };
  try {
    await calls.open(setting);
  } catch (error) {
    child.kill('SIGKILL');
    throw new Error(`the engine did not open: ${log}`, { cause: error });
  }
  return { ...calls, pid: child.pid ?? 0, log: () => log, [Symbol.asyncDispose]: close };
}

function callsTo(child: ChildProcess): Calls {
  const waiting = new Map<number, { resolve(result: unknown): void; reject(error: Error): void }>();
  let last = 0;
  child.on('message', ({ id, result, error }: Answer) => {
    const call = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) call?.resolve(result);
    else call?.reject(new Error(error));
  });
  child.once('exit', () => {
    for (const { reject } of waiting.values()) reject(new Error('the process of the engine has ended'));
    waiting.clear();
  });
  return new Proxy({} as Calls, {
    get: (_, call) => {
      // Awaited objects are asked for this.
      if (call === 'then') return undefined;
      return (...args: unknown[]) =>
        new Promise((resolve, reject) => {
          const question = { id: ++last, call, args };
          waiting.set(question.id, { resolve, reject });
          child.send(question, (error) => error && reject(error));
        });
    },
    ownKeys: () => CALLS,
    getOwnPropertyDescriptor: () => ({ enumerable: true, configurable: true }),
  });
}

const CALLS: (keyof Calls)[] = [
  ...([
    'open',
    'build',
    'buildContext',
    'seal',
    'launch',
    'suspend',
    'resume',
    'end',
    'setEgress',
    'flows',
    'python',
    'close',
  ] as const),
];
