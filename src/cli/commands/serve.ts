/** `rekindle serve`: the server in the foreground until a signal. */
import { closeSync, readdirSync, readFileSync } from 'node:fs';
import type { Environment, RawSettings } from '../../config.ts';
import { createLogger } from '../../lib/index.ts';
import { EXIT } from '../exit.ts';
import { requireSetUp } from '../host-checks.ts';
import { readSettings } from '../target.ts';

/** Runs until SIGTERM or SIGINT; a second signal does not wait. @returns the exit code */
export async function serve(flags: RawSettings, options: { json: boolean }, env: Environment): Promise<number> {
  const config = readSettings(flags, env);
  requireSetUp(config);
  closeInherited();
  const log = createLogger(config.logLevel);
  const stopAsked = untilSignal();
  const { startServer } = await import('../../main.ts');
  const server = await startServer(config, { log });
  const { apiUrl, s3Url, record } = server;
  const facts = { apiUrl, s3Url, region: record.region, stateDir: config.stateDir, pid: record.pid };
  const words = `api=${apiUrl} s3=${s3Url} region=${record.region} state=${config.stateDir}`;
  process.stdout.write(`rekindle ready ${options.json ? JSON.stringify(facts) : words}\n`);
  await stopAsked;
  await server.stop();
  return EXIT.ok;
}

/**
 * Closes what whoever started the server left open by accident: programs the server starts would have it too, VMMs among
 * them. Everything that Node opened itself is closed on exec.
 */
function closeInherited(): void {
  for (const name of readdirSync('/proc/self/fd')) {
    const fd = Number(name);
    if (fd <= 2) continue;
    try {
      const flags = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1] ?? '0';
      if ((Number.parseInt(flags, 8) & O_CLOEXEC) === 0) closeSync(fd);
    } catch {
      // The folder's own handle is closed by now.
    }
  }
}

const O_CLOEXEC = 0o2_000_000;

/** Resolves at the first signal; the second ends the process at once. A signal during the start counts as well. */
function untilSignal(): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  let count = 0;
  const onSignal = (signal: NodeJS.Signals) => {
    count++;
    if (count > 1) process.exit(EXIT.interrupted);
    process.stderr.write(`${signal}: stopping; once more to stop at once\n`);
    resolve();
  };
  process.on('SIGTERM', onSignal).on('SIGINT', onSignal);
  return promise;
}
