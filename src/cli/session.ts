/** What a command that talks to a server works with: the server, the terminal, and a signal for Ctrl-C. */
import type { LambdaMicrovms, MicrovmState } from '@aws-sdk/client-lambda-microvms';
import type { Environment } from '../config.ts';
import { sleep } from '../lib/index.ts';
import { microvmsClient } from './clients.ts';
import { CliError } from './exit.ts';
import { findTarget, type Target } from './target.ts';
import { createTerminal, type Terminal } from './terminal.ts';

/** Options that every command has. */
export interface CommonOptions {
  readonly state?: string;
  readonly json?: boolean;
}

export interface Session {
  readonly target: Target;
  readonly terminal: Terminal;
  readonly client: LambdaMicrovms;
}

/** How often a state is asked for; the API is on the same machine. */
const POLL_MS = 50;

export async function openSession(options: CommonOptions, env: Environment): Promise<Session> {
  const target = findTarget(options, env);
  return { target, terminal: createTerminal({ json: options.json === true }), client: await microvmsClient(target) };
}

/** An image's ARN from what the user typed: an ARN as it is, a name in this account and Region. */
export function imageArnOf(target: Target, image: string): string {
  if (image.startsWith('arn:')) return image;
  return `arn:aws:lambda:${target.region}:${target.account}:microvm-image:${image}`;
}

/** Polls until the microVM is in one of `states`. @throws CliError when it ended instead, or the time is over */
export async function waitForState(
  client: LambdaMicrovms,
  microvmId: string,
  states: readonly MicrovmState[],
  options: { timeoutMs: number; signal?: AbortSignal | undefined },
): Promise<{ state: MicrovmState; endpoint: string }> {
  const startedAt = performance.now();
  for (;;) {
    const { state, endpoint, stateReason } = await client.getMicrovm({ microvmIdentifier: microvmId });
    if (state !== undefined && states.includes(state)) return { state, endpoint: endpoint ?? '' };
    if (state === 'TERMINATED') throw new CliError(`${microvmId} is TERMINATED: ${stateReason ?? 'no reason given'}`);
    if (performance.now() - startedAt > options.timeoutMs) {
      throw new CliError(`${microvmId} is ${state} and did not become ${states.join(' or ')} in time.`);
    }
    await sleep(POLL_MS, { signal: options.signal });
  }
}
