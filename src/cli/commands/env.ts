/** `rekindle env`: the variables that make any AWS client talk to the server. */
import type { Environment } from '../../config.ts';
import { isLocked } from '../../home/index.ts';
import type { CommonOptions } from '../session.ts';
import { environmentOf, fromStateFolder, readSettings } from '../target.ts';
import { createTerminal, shellQuoted } from '../terminal.ts';

/** Set in the caller's shell, these would win over the keys, or be sent with them. */
const IN_THE_WAY = ['AWS_SESSION_TOKEN', 'AWS_SECURITY_TOKEN', 'AWS_PROFILE', 'AWS_DEFAULT_PROFILE'];

/** Always about a state folder, whatever the environment says already. */
export function printEnvironment(options: CommonOptions, env: Environment): void {
  const terminal = createTerminal({ json: options.json === true });
  const { stateDir } = readSettings(options.state === undefined ? {} : { state: options.state }, env);
  const variables = environmentOf(fromStateFolder(stateDir));
  if (!isLocked(stateDir))
    terminal.note('rekindle: no server runs on this state folder now; these are the settings of the last one.');
  terminal.json(variables);
  for (const [name, value] of Object.entries(variables)) terminal.say(`export ${name}=${shellQuoted(value)}`);
  for (const name of IN_THE_WAY) if (env[name] !== undefined) terminal.say(`unset ${name}`);
}
