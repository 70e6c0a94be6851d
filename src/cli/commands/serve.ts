/** `rekindle serve`: the server in the foreground until a signal. */
import type { Environment, RawSettings } from '../../config.ts';
import { createLogger } from '../../lib/index.ts';
import { EXIT } from '../exit.ts';
import { requireSetUp } from '../host-checks.ts';
import { readSettings } from '../target.ts';

/** Runs until SIGTERM or SIGINT; a second signal does not wait. @returns the exit code */
export async function serve(flags: RawSettings, options: { json: boolean }, env: Environment): Promise<number> {
  const config = readSettings(flags, env);
  requireSetUp(config);
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
