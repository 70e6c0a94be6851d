/**
 * Runs other programs for set-up. Each gets a process group of its own, so that an abort or a time limit ends the whole
 * tree (mmdebstrap and apt start many children), and its last lines of output become part of the error.
 */
import { spawn } from 'node:child_process';
import { open } from 'node:fs/promises';

export interface CommandOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Text for the program's standard input; without it the input is empty. */
  readonly input?: string;
  /** File that takes standard output as it is; the result is then empty. */
  readonly outputFile?: string;
  readonly signal: AbortSignal;
  /** Default: 10 minutes. */
  readonly timeoutMs?: number;
}

/** How long a program may take to clean up after SIGTERM (mmdebstrap unmounts) before it is killed. */
const GRACE_MS = 8_000;

/** Runs a program to its end and returns its standard output. @throws Error naming the program and its last lines. */
export async function run(argv: readonly string[], options: CommandOptions): Promise<string> {
  options.signal.throwIfAborted();
  const [program, ...args] = argv;
  if (program === undefined) throw new Error('no program to run');
  await using output = options.outputFile === undefined ? undefined : await open(options.outputFile, 'w');
  const child = spawn(program, args, {
    cwd: options.cwd,
    env: options.env,
    detached: true,
    stdio: ['pipe', output?.fd ?? 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-8_192);
  });
  child.stdin?.on('error', () => {});
  child.stdin?.end(options.input ?? '');

  let stopReason: string | undefined;
  let killTimer: NodeJS.Timeout | undefined;
  const stop = (reason: string) => {
    stopReason ??= reason;
    signalGroup(child.pid, 'SIGTERM');
    killTimer ??= setTimeout(() => signalGroup(child.pid, 'SIGKILL'), GRACE_MS);
  };
  const onAbort = () => stop('interrupted');
  options.signal.addEventListener('abort', onAbort, { once: true });
  const timeoutMs = options.timeoutMs ?? 600_000;
  const timer = setTimeout(() => stop(`took longer than ${timeoutMs / 1000} s`), timeoutMs);
  try {
    const status = await new Promise<string>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, signal) => resolve(code === null ? `ended by ${signal}` : `exit code ${code}`));
    });
    options.signal.throwIfAborted();
    if (stopReason !== undefined || status !== 'exit code 0') {
      throw new Error(`${program}: ${stopReason ?? status}\n${lastLines(stderr || stdout)}`);
    }
    return stdout;
  } finally {
    clearTimeout(timer);
    clearTimeout(killTimer);
    options.signal.removeEventListener('abort', onAbort);
  }
}

/** Repeats work that needs the network: a mirror or a line may fail for a moment. */
export async function retry<T>(
  what: string,
  work: () => Promise<T>,
  options: { signal: AbortSignal; say: (line: string) => void; attempts?: number; pauseMs?: number },
): Promise<T> {
  const attempts = options.attempts ?? 4;
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      options.signal.throwIfAborted();
      const message = error instanceof Error ? error.message : String(error);
      if (attempt >= attempts) {
        throw new Error(`${what} failed ${attempts} times; is the network there? Run again to go on.\n${message}`, {
          cause: error,
        });
      }
      const pauseMs = (options.pauseMs ?? 2_000) * 2 ** (attempt - 1);
      options.say(`${what}: attempt ${attempt} failed, again in ${pauseMs / 1000} s (${message.split('\n')[0]})`);
      await pause(pauseMs, options.signal);
    }
  }
}

function pause(delayMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort);
      resolve();
    }, delayMs);
    signal.addEventListener('abort', onAbort, { once: true });
  });
}

function signalGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // Already gone.
  }
}

function lastLines(text: string): string {
  return text.trimEnd().split('\n').slice(-15).join('\n');
}
