/** `rekindle drain`: nothing starts any more, what runs is suspended, and the command waits until all of it sleeps. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Environment } from '../../config.ts';
import { callExtension } from '../clients.ts';
import { CliError } from '../exit.ts';
import type { CommonOptions } from '../session.ts';
import { findTarget } from '../target.ts';
import { createTerminal } from '../terminal.ts';

export interface DrainOptions extends CommonOptions {
  readonly off?: boolean;
  readonly timeout?: string;
}

interface Status {
  readonly draining: boolean;
  readonly running: number;
  readonly suspended: number;
}

const PATH = '/rekindle/v1/drain';
const POLL_MS = 250;

export async function drain(options: DrainOptions, env: Environment): Promise<void> {
  const target = findTarget(options, env);
  const terminal = createTerminal({ json: options.json === true });
  if (options.off === true) {
    terminal.json(await callExtension(target, 'DELETE', PATH));
    terminal.say('MicroVMs may start again.');
    return;
  }
  const { timeout = '300' } = options;
  if (!/^\d{1,6}$/.test(timeout)) throw new CliError('--timeout must be a number of seconds.');
  const endAt = Date.now() + Number(timeout) * 1000;
  for (;;) {
    // Said again each time: a microVM that was just starting is caught once it runs.
    const status = (await callExtension(target, 'PUT', PATH)) as Status;
    if (status.running === 0) {
      terminal.json(status);
      terminal.say(`Drained: ${status.suspended} microVMs are suspended. rekindle drain --off lets them start again.`);
      return;
    }
    if (Date.now() >= endAt) {
      throw new CliError(`${status.running} microVMs still run after ${timeout} s; ask again, or terminate them.`);
    }
    await delay(POLL_MS);
  }
}
