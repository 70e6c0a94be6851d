/** `rekindle identity …`: users, their keys, roles, policies, and why a decision falls as it does. */
import { readFile } from 'node:fs/promises';
import { text as readAll } from 'node:stream/consumers';
import type { Environment } from '../../config.ts';
import { callExtension } from '../clients.ts';
import { CliError, EXIT } from '../exit.ts';
import type { CommonOptions } from '../session.ts';
import { findTarget } from '../target.ts';
import { createTerminal, shellQuoted, type Terminal, table } from '../terminal.ts';

/** Options of commands about a user or a role. */
export interface HolderOptions extends CommonOptions {
  readonly user?: string;
  readonly role?: string;
}

export interface ExplainOptions extends HolderOptions {
  readonly action: string;
  readonly resource: string;
  readonly context?: readonly string[];
}

interface Holder {
  readonly name: string;
  readonly arn: string;
  readonly id: string;
  readonly createdAt: number;
  readonly policies: readonly string[];
}

interface Key {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly createdAt: number;
}

type Kind = 'user' | 'role';

/** The server this command talks to, by paths below `identity/`. */
function open(
  options: CommonOptions,
  env: Environment,
): {
  terminal: Terminal;
  call: (method: string, segments: readonly string[], body?: string) => Promise<unknown>;
} {
  const target = findTarget(options, env);
  const call = (method: string, segments: readonly string[], body = '') =>
    callExtension(target, method, `/rekindle/v1/identity/${segments.map(encodeURIComponent).join('/')}`, body);
  return { terminal: createTerminal({ json: options.json === true }), call };
}

export async function createHolder(kind: Kind, name: string, options: CommonOptions, env: Environment): Promise<void> {
  const { terminal, call } = open(options, env);
  const made = (await call('PUT', [`${kind}s`, name])) as Holder;
  terminal.json(made);
  terminal.say(made.arn);
}

export async function listHolders(kind: Kind, options: CommonOptions, env: Environment): Promise<void> {
  const { terminal, call } = open(options, env);
  const { items } = (await call('GET', [`${kind}s`])) as { items: readonly Holder[] };
  terminal.json(items);
  const rows = items.map(({ name, createdAt, policies }) => [name, date(createdAt), policies.join(', ')]);
  terminal.say(
    rows.length === 0
      ? `No ${kind}s. Create one: rekindle identity ${kind} create <name>`
      : table(['NAME', 'CREATED', 'POLICIES'], rows),
  );
}

export async function removeHolder(kind: Kind, name: string, options: CommonOptions, env: Environment): Promise<void> {
  const { terminal, call } = open(options, env);
  await call('DELETE', [`${kind}s`, name]);
  terminal.json({ removed: name });
  terminal.say(`${kind} ${name} is gone${kind === 'user' ? ', and so are its keys' : ''}`);
}

export async function createKey(user: string, options: CommonOptions, env: Environment): Promise<void> {
  const { terminal, call } = open(options, env);
  const key = (await call('POST', ['users', user, 'keys'])) as Key;
  terminal.json(key);
  terminal.note('The secret is shown this once; keep it.');
  terminal.say(`export AWS_ACCESS_KEY_ID=${shellQuoted(key.accessKeyId)}`);
  terminal.say(`export AWS_SECRET_ACCESS_KEY=${shellQuoted(key.secretAccessKey)}`);
}

export async function listKeys(user: string, options: CommonOptions, env: Environment): Promise<void> {
  const { terminal, call } = open(options, env);
  const { items } = (await call('GET', ['users', user, 'keys'])) as { items: readonly Key[] };
  terminal.json(items);
  const rows = items.map(({ accessKeyId, createdAt }) => [accessKeyId, date(createdAt)]);
  terminal.say(rows.length === 0 ? `${user} has no access key.` : table(['ACCESS KEY', 'CREATED'], rows));
}

export async function removeKey(
  user: string,
  accessKeyId: string,
  options: CommonOptions,
  env: Environment,
): Promise<void> {
  const { terminal, call } = open(options, env);
  await call('DELETE', ['users', user, 'keys', accessKeyId]);
  terminal.json({ removed: accessKeyId });
  terminal.say(`${accessKeyId} works no more`);
}

/** `file` is a path, or `-` for the standard input. */
export async function putPolicy(name: string, file: string, options: HolderOptions, env: Environment): Promise<void> {
  const holder = holderOf(options);
  const document = file === '-' ? await readAll(process.stdin) : await readDocument(file);
  const { terminal, call } = open(options, env);
  await call('PUT', [...holder.path, 'policies', name], document);
  terminal.json({ [holder.kind]: holder.name, policy: name });
  terminal.say(`${holder.kind} ${holder.name} has the policy ${name}`);
}

export async function listPolicies(options: HolderOptions, env: Environment): Promise<void> {
  const holder = holderOf(options);
  const { terminal, call } = open(options, env);
  const { items } = (await call('GET', [...holder.path, 'policies'])) as { items: readonly string[] };
  terminal.json(items);
  terminal.say(items.length === 0 ? `${holder.kind} ${holder.name} has no policy.` : items.join('\n'));
}

export async function showPolicy(name: string, options: HolderOptions, env: Environment): Promise<void> {
  const holder = holderOf(options);
  const { terminal, call } = open(options, env);
  const { document } = (await call('GET', [...holder.path, 'policies', name])) as { document: string };
  terminal.json(JSON.parse(document));
  terminal.say(document.trimEnd());
}

export async function removePolicy(name: string, options: HolderOptions, env: Environment): Promise<void> {
  const holder = holderOf(options);
  const { terminal, call } = open(options, env);
  await call('DELETE', [...holder.path, 'policies', name]);
  terminal.json({ [holder.kind]: holder.name, removed: name });
  terminal.say(`${holder.kind} ${holder.name} has no policy ${name} any more`);
}

/** `role` is a name or an ARN. */
export async function revokeRole(role: string, options: CommonOptions, env: Environment): Promise<void> {
  const { terminal, call } = open(options, env);
  const { roleArn } = (await call('PUT', ['revoked-roles', role])) as { roleArn: string };
  terminal.json({ revoked: roleArn });
  terminal.say(`${roleArn} gives no credentials until it is restored; running microVMs lose those they have now`);
}

export async function restoreRole(role: string, options: CommonOptions, env: Environment): Promise<void> {
  const { terminal, call } = open(options, env);
  const { roleArn } = (await call('DELETE', ['revoked-roles', role])) as { roleArn: string };
  terminal.json({ restored: roleArn });
  terminal.say(`${roleArn} gives credentials again`);
}

export async function listRevoked(options: CommonOptions, env: Environment): Promise<void> {
  const { terminal, call } = open(options, env);
  const { items } = (await call('GET', ['revoked-roles'])) as {
    items: readonly { roleArn: string; revokedAt: number }[];
  };
  terminal.json(items);
  const rows = items.map(({ roleArn, revokedAt }) => [roleArn, date(revokedAt)]);
  terminal.say(rows.length === 0 ? 'No role is revoked.' : table(['ROLE', 'REVOKED'], rows));
}

interface Explanation {
  readonly outcome: 'allowed' | 'explicit-deny' | 'implicit-deny';
  readonly principalArn: string;
  readonly statements: readonly {
    readonly policy: string;
    readonly statement: number;
    readonly sid?: string;
    readonly effect: 'Allow' | 'Deny';
    readonly mismatch?: { readonly on: string; readonly operator?: string; readonly key?: string };
  }[];
}

const OUTCOMES: Readonly<Record<Explanation['outcome'], string>> = {
  allowed: 'ALLOWED',
  'explicit-deny': 'DENIED by a statement',
  'implicit-deny': 'DENIED because no statement allows it',
};

export async function explain(options: ExplainOptions, env: Environment): Promise<void> {
  const { kind, name } = holderOf(options);
  const { action, resource } = options;
  const context = contextOf(options.context ?? []);
  const { terminal, call } = open(options, env);
  const question = JSON.stringify({ [kind]: name, action, resource, context });
  const explained = (await call('POST', ['explain'], question)) as Explanation;
  terminal.json(explained);
  terminal.say(`${OUTCOMES[explained.outcome]}: ${explained.principalArn}, ${action}, ${resource}`);
  if (explained.statements.length === 0) return terminal.say(`${kind} ${name} has no policy.`);
  const rows = explained.statements.map(({ policy, statement, sid, effect, mismatch }) => [
    policy,
    sid === undefined || sid === '' ? String(statement) : `${statement} (${sid})`,
    effect,
    mismatch === undefined ? 'applies' : `no: ${reasonOf(mismatch)}`,
  ]);
  terminal.say(table(['POLICY', 'STATEMENT', 'EFFECT', 'APPLIES'], rows));
}

function reasonOf({ on, operator, key }: { on: string; operator?: string; key?: string }): string {
  return on === 'condition' ? `its condition ${operator} on ${key} does not hold` : `it covers another ${on}`;
}

/** `key=value`; a key given twice has both values. */
function contextOf(pairs: readonly string[]): Record<string, string[]> {
  const context = new Map<string, string[]>();
  for (const pair of pairs) {
    const at = pair.indexOf('=');
    if (at < 1) throw new CliError(`--context takes key=value, not "${pair}".`, EXIT.usage);
    const key = pair.slice(0, at);
    context.set(key, [...(context.get(key) ?? []), pair.slice(at + 1)]);
  }
  return Object.fromEntries(context);
}

function holderOf({ user, role }: HolderOptions): { kind: Kind; name: string; path: readonly string[] } {
  const name = user ?? role;
  if (name === undefined || (user !== undefined && role !== undefined)) {
    throw new CliError('Name either --user <name> or --role <name>.', EXIT.usage);
  }
  const kind = user === undefined ? 'role' : 'user';
  return { kind, name, path: [`${kind}s`, name] };
}

async function readDocument(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new CliError(`The policy file ${file} cannot be read.`, EXIT.usage, { cause: error });
  }
}

function date(at: number): string {
  return new Date(at).toISOString();
}
