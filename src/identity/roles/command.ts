/**
 * A program that prints credentials, as the AWS tools' `credential_process` does. Run without a shell, in a process group of
 * its own that is gone afterwards; it gets few variables and nothing to read.
 */
import { spawn } from 'node:child_process';
import { readCredentials, type SourceCredentials, SourceError } from './role-credentials.ts';
import type { RoleSource } from './roles-file.ts';
import { type Asking, parseObject } from './sources.ts';

const MAX_OUTPUT_BYTES = 64 * 1024;
const ALWAYS_GIVEN = ['PATH', 'HOME', 'LANG'];

/** @throws SourceError; the signal's reason */
export async function runCommand(
  source: Extract<RoleSource, { kind: 'command' }>,
  asking: Asking,
): Promise<SourceCredentials> {
  const what = 'The credential command';
  const found = parseObject(`${what}'s output`, await outputOf(source, asking));
  if (found.Version !== 1) throw new SourceError('failed', `${what} does not print Version 1.`);
  return readCredentials(what, found);
}

function outputOf(
  { argv, timeoutMs, environment: named }: Extract<RoleSource, { kind: 'command' }>,
  { environment, signal }: Asking,
): Promise<string> {
  signal.throwIfAborted();
  const [program = '', ...args] = argv;
  const env = Object.fromEntries([...ALWAYS_GIVEN, ...named].map((name) => [name, environment[name]]));
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { env, cwd: '/', detached: true, stdio: ['ignore', 'pipe', 'ignore'] });
    const parts: Buffer[] = [];
    let length = 0;
    const kill = () => {
      if (child.pid === undefined) return;
      try {
        process.kill(-child.pid, 'SIGKILL');
      } catch {
        // It has ended.
      }
    };
    const fail = (error: unknown) => {
      kill();
      child.stdout.destroy();
      reject(error);
    };
    const timer = setTimeout(
      () => fail(new SourceError('failed', `The credential command took longer than ${timeoutMs / 1000} s.`)),
      timeoutMs,
    );
    const onAbort = () => fail(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    child.stdout.on('data', (part: Buffer) => {
      length += part.length;
      if (length > MAX_OUTPUT_BYTES) fail(new SourceError('failed', 'The credential command printed over 64 KiB.'));
      else parts.push(part);
    });
    child.once('error', (error: NodeJS.ErrnoException) =>
      fail(new SourceError('failed', `The credential command cannot be started: ${error.code ?? 'unknown'}.`)),
    );
    child.once('close', (code, killed) => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      // What it left running in the background would outlive the server.
      kill();
      if (code === 0) resolve(Buffer.concat(parts).toString('utf8'));
      else reject(new SourceError('failed', `The credential command ended with ${killed ?? `exit code ${code}`}.`));
    });
  });
}
