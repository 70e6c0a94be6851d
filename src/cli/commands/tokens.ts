/** `rekindle rotate-token-key`: endpoint tokens are made with a new key from now on; those that were issued stay good. */
import type { Environment } from '../../config.ts';
import { callExtension } from '../clients.ts';
import type { CommonOptions } from '../session.ts';
import { findTarget } from '../target.ts';
import { createTerminal } from '../terminal.ts';

export async function rotateTokenKey(options: CommonOptions, env: Environment): Promise<void> {
  const answer = (await callExtension(findTarget(options, env), 'POST', '/rekindle/v1/endpoint-token-key')) as {
    readonly kid: string;
  };
  const terminal = createTerminal({ json: options.json === true });
  terminal.json(answer);
  terminal.say(`New endpoint tokens are made with the key ${answer.kid}; issued ones stay good until they expire.`);
}
