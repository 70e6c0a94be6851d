/** A server started over and over on one state folder, as an operator would start it, and timed from the first process on. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { repository } from '../../test/support/server.ts';

export interface Served {
  readonly pid: number;
  /** performance.now() before its first process. */
  readonly startedAt: number;
  /** Resolves when it says that it is ready. */
  readonly ready: Promise<void>;
  /** Resolves when it has logged `text` so many times. */
  logged(text: string, times: number): Promise<void>;
  end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void>;
}

export function serve(stateDir: string, args: readonly string[], logLevel: 'warn' | 'info' = 'warn'): Served {
  const startedAt = performance.now();
  const command = ['serve', '--state', stateDir, '--log-level', logLevel, ...args];
  const child = spawn(`${repository}/bin/rekindle`, command, { stdio: ['ignore', 'pipe', 'pipe'] });
  const said: string[] = [];
  child.stderr.setEncoding('utf8').on('data', (text: string) => said.push(text));
  const ready = saidReady(child, () => said.join('').slice(-4000));
  ready.catch(() => {});
  const logged = async (text: string, times: number) => {
    while (said.join('').split(text).length <= times) await once(child.stderr, 'data');
  };
  return { pid: child.pid ?? 0, startedAt, ready, logged, end: (signal) => end(child, signal) };
}

async function saidReady(child: ChildProcess, last: () => string): Promise<void> {
  if (child.stdout === null) throw new Error('the server has no standard output');
  for await (const line of createInterface({ input: child.stdout })) {
    if (!line.startsWith('rekindle ready')) continue;
    child.stdout.resume();
    return;
  }
  throw new Error(`the server ended before it was ready:\n${last()}`);
}

async function end(child: ChildProcess, signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill(signal);
  await exited;
}
