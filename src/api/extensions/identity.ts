/**
 * Users, roles, keys and policies over Rekindle's own path. Whoever may change identities may give themselves any right:
 * `rekindle:ChangeIdentity` is an administrator's permission. Reading and explaining need `rekindle:ReadIdentity`.
 *
 *   GET    …/identity/users                       PUT, GET, DELETE …/identity/users/{user}      (roles likewise)
 *   GET, POST …/identity/users/{user}/keys        DELETE …/identity/users/{user}/keys/{id}
 *   PUT, GET, DELETE …/identity/{users|roles}/{name}/policies/{policy}     the body and the answer are the policy's JSON
 *   GET …/identity/revoked-roles                  PUT, DELETE …/identity/revoked-roles/{name or ARN}: no credentials until the latter
 *   POST   …/identity/explain                     {"user" or "role", "action", "resource", "context"}
 *
 * Invariant: a secret is answered once, to the call that made the key.
 */
import type { AccessRequest, Context, Directory, Holder, HolderKind, Identity } from '../../identity/index.ts';
import { DomainError } from '../../lib/index.ts';

export const IDENTITY_PATH = /^\/rekindle\/v1\/identity\/([^/]+)(?:\/([^/]+)(?:\/([^/]+)(?:\/([^/]+))?)?)?$/;

export interface IdentityCall {
  readonly method: string;
  /** Decoded path segments behind `identity/`. */
  readonly segments: readonly string[];
  readonly body: Buffer;
  readonly identity: Identity;
  /** @throws DomainError DENIED */
  demand(action: string, resource: string): void;
}

export interface IdentityAnswer {
  readonly status: number;
  readonly body: Readonly<Record<string, unknown>>;
}

const KINDS: Readonly<Record<string, HolderKind>> = { users: 'user', roles: 'role' };
const ROLE_ARN = /^arn:aws[a-z-]*:iam::\d{12}:role\/[\w+=,.@/-]{1,512}$/;
const NO_CONTENT: IdentityAnswer = { status: 200, body: {} };

/** @throws DomainError */
export async function answerIdentity(call: IdentityCall): Promise<IdentityAnswer> {
  const { method, segments, identity } = call;
  const { directory } = identity;
  if (directory === undefined) throw new DomainError('NOT_FOUND', 'This server knows no identities but its root.');
  call.demand(
    method === 'GET' || segments[0] === 'explain' ? 'rekindle:ReadIdentity' : 'rekindle:ChangeIdentity',
    resourceOf(identity.account, segments),
  );
  const [collection = '', name, part, item] = segments;
  if (collection === 'explain' && name === undefined && method === 'POST') return explain(call);
  if (collection === 'revoked-roles' && part === undefined) return answerRevoked(call, name);
  const kind = Object.hasOwn(KINDS, collection) ? KINDS[collection] : undefined;
  if (kind === undefined) throw nothingHere(call);
  if (name === undefined) {
    if (method === 'GET') return ok({ items: directory.list(kind) });
    throw nothingHere(call);
  }
  const holder: Holder = { kind, name };
  if (part === undefined) return answerHolder(call, directory, holder);
  if (part === 'keys' && kind === 'user') return answerKeys(call, directory, name, item);
  if (part === 'policies') return answerPolicies(call, directory, holder, item);
  throw nothingHere(call);
}

async function answerRevoked(call: IdentityCall, role: string | undefined): Promise<IdentityAnswer> {
  const { method, identity } = call;
  const { roles } = identity;
  if (roles === undefined) throw nothingHere(call);
  if (role === undefined && method === 'GET') return ok({ items: roles.revoked() });
  if (role === undefined) throw nothingHere(call);
  const roleArn = roleArnOf(identity.account, role);
  if (!ROLE_ARN.test(roleArn)) throw new DomainError('INVALID', 'Name a role, or give its ARN.');
  if (method === 'PUT') await roles.revoke(roleArn);
  else if (method === 'DELETE') await roles.restore(roleArn);
  else throw nothingHere(call);
  return ok({ roleArn });
}

function roleArnOf(account: string, role: string): string {
  return role.startsWith('arn:') ? role : `arn:aws:iam::${account}:role/${role}`;
}

async function answerHolder(call: IdentityCall, directory: Directory, holder: Holder): Promise<IdentityAnswer> {
  switch (call.method) {
    case 'PUT':
      return { status: 201, body: { ...(await directory.create(holder)) } };
    case 'GET':
      return ok({ ...directory.get(holder) });
    case 'DELETE':
      await directory.remove(holder);
      return NO_CONTENT;
    default:
      throw nothingHere(call);
  }
}

async function answerKeys(
  call: IdentityCall,
  directory: Directory,
  user: string,
  key: string | undefined,
): Promise<IdentityAnswer> {
  if (key === undefined && call.method === 'POST') {
    return { status: 201, body: { ...(await directory.createKey(user)) } };
  }
  if (key === undefined && call.method === 'GET') return ok({ items: directory.listKeys(user) });
  if (key === undefined || call.method !== 'DELETE') throw nothingHere(call);
  await directory.removeKey(user, key);
  return NO_CONTENT;
}

async function answerPolicies(
  call: IdentityCall,
  directory: Directory,
  holder: Holder,
  policy: string | undefined,
): Promise<IdentityAnswer> {
  if (policy === undefined) {
    if (call.method === 'GET') return ok({ items: directory.get(holder).policies });
    throw nothingHere(call);
  }
  switch (call.method) {
    case 'PUT':
      await directory.putPolicy(holder, policy, call.body.toString('utf8'));
      return NO_CONTENT;
    case 'GET':
      return ok({ name: policy, document: directory.policy(holder, policy) });
    case 'DELETE':
      await directory.removePolicy(holder, policy);
      return NO_CONTENT;
    default:
      throw nothingHere(call);
  }
}

function explain({ identity, body }: IdentityCall): IdentityAnswer {
  const { holder, request } = readQuestion(body);
  const explained = identity.explain?.(holder, request);
  if (explained === undefined) throw new DomainError('NOT_FOUND', 'This server knows no identities but its root.');
  return ok({ ...explained });
}

function readQuestion(body: Buffer): { holder: Holder; request: AccessRequest } {
  let found: unknown;
  try {
    found = JSON.parse(body.toString('utf8'));
  } catch {}
  if (typeof found !== 'object' || found === null) throw new DomainError('INVALID', 'The body must be a JSON object.');
  const { user, role, action, resource = '*', context = {} } = found as Record<string, unknown>;
  const name = user ?? role;
  if (typeof name !== 'string' || (user !== undefined && role !== undefined)) {
    throw new DomainError('INVALID', 'Name either a user or a role.');
  }
  if (typeof action !== 'string' || typeof resource !== 'string') {
    throw new DomainError('INVALID', 'action and resource must be strings.');
  }
  if (!isContext(context)) throw new DomainError('INVALID', 'context must map keys to strings or lists of strings.');
  return { holder: { kind: user === undefined ? 'role' : 'user', name }, request: { action, resource, context } };
}

function isContext(value: unknown): value is Context {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const isText = (item: unknown) => typeof item === 'string';
  return Object.values(value).every((item) => isText(item) || (Array.isArray(item) && item.every(isText)));
}

/** What policies name: one user or role, or everything. */
function resourceOf(account: string, [collection = '', name]: readonly string[]): string {
  if (collection === 'revoked-roles' && name !== undefined) return roleArnOf(account, name);
  const kind = Object.hasOwn(KINDS, collection) ? KINDS[collection] : undefined;
  return kind === undefined || name === undefined ? '*' : `arn:aws:iam::${account}:${kind}/${name}`;
}

function ok(body: Readonly<Record<string, unknown>>): IdentityAnswer {
  return { status: 200, body };
}

function nothingHere({ method, segments }: IdentityCall): DomainError {
  return new DomainError('NOT_FOUND', `${method} does nothing at identity/${segments.join('/').slice(0, 200)}.`);
}
