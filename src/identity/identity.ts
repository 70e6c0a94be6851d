/**
 * Who calls, and what they may do: access keys, the principals behind them, and the decision over each action.
 *
 * One account. Its root, whose keys are given at start, may do everything; users and roles what their policies allow.
 */
import { type Clock, type Ids, type Logger, randomIds, silentLogger, systemClock } from '../lib/index.ts';
import type { Store } from '../store/index.ts';
import { type Directory, type Holder, openDirectory, type StoredDirectory } from './directory.ts';
import type { Context } from './policy/condition.ts';
import { type AccessRequest, type Evaluation, evaluate, type Outcome } from './policy/evaluate.ts';
import { openRoles, type Roles } from './roles/roles.ts';
import type { Environment } from './roles/sources.ts';

/** Somebody who can sign a request. */
export type Principal =
  | { readonly kind: 'root'; readonly account: string; readonly arn: string }
  | {
      readonly kind: 'user';
      readonly account: string;
      readonly arn: string;
      readonly name: string;
      /** `AIDA…` */
      readonly id: string;
    }
  /** A session of a role. */
  | {
      readonly kind: 'role';
      readonly account: string;
      /** `arn:aws:sts::…:assumed-role/<name>/<session>` */
      readonly arn: string;
      readonly name: string;
      /** `AROA…` */
      readonly id: string;
      readonly session: string;
    };

/** Who needs policies. */
type Limited = Exclude<Principal, { kind: 'root' }>;

/** What a wire layer needs to check a signature made with an access key. */
export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Set for temporary credentials: the request must carry exactly this token. */
  readonly sessionToken?: string;
  /** ms since the epoch, for temporary credentials. */
  readonly expiresAt?: number;
  readonly principal: Principal;
}

export type Decision =
  | { readonly allowed: true }
  /** The end of the sentence "User … is not authorized to perform … on resource: …", in IAM's words. */
  | { readonly allowed: false; readonly because: string };

/** Why a principal may or may not do a thing; no statements for the root. */
export interface Explanation extends Evaluation {
  readonly principalArn: string;
  readonly context: Context;
}

export interface Identity {
  readonly account: string;
  /** The account's root: who a request counts as where signatures are not checked. */
  readonly root: Principal;
  /** The credentials behind an access key id. */
  authenticate(accessKeyId: string): Credentials | undefined;
  /**
   * Whether `principal` may do `action` (`lambda:RunMicrovm`) to `resource`: an ARN, `*` for none in particular, or
   * undefined for one that does not exist (see `AccessRequest`). `context` says what is known of the request; the
   * principal's own keys and the time are added.
   */
  authorize(principal: Principal, action: string, resource: string | undefined, context?: Context): Decision;
  /** Users, roles, keys and policies; absent where only the root exists. */
  readonly directory?: Directory;
  /** The credentials that roles come to; absent where only the root exists. */
  readonly roles?: Roles;
  /** What `authorize` would decide for a user or role, and why. @throws DomainError NOT_FOUND */
  explain?(holder: Holder, request: AccessRequest): Explanation;
}

export interface IdentityOptions {
  /** Twelve digits. */
  readonly account: string;
  /** Access keys of the account's root. */
  readonly rootKeys: readonly {
    readonly accessKeyId: string;
    readonly secretAccessKey: string;
    readonly sessionToken?: string;
    readonly expiresAt?: number;
  }[];
  readonly clock?: Clock;
}

export interface RoleSettings {
  /** The roles file. */
  readonly file: string | undefined;
  /** Of the server, for sources that name variables. */
  readonly environment: Environment;
}

export type OpenIdentity = Identity & Required<Pick<Identity, 'directory' | 'explain' | 'roles'>> & AsyncDisposable;

/** The root alone, for where nothing is kept. */
export function createIdentity(options: IdentityOptions): Identity {
  return identityOf(options, undefined);
}

/** The root and whoever the store knows. */
export async function openIdentity(
  options: IdentityOptions & { store: Store; ids?: Ids; log?: Logger; roles?: RoleSettings },
): Promise<OpenIdentity> {
  const { store, account, clock = systemClock, ids = randomIds, log = silentLogger } = options;
  const { file, environment } = options.roles ?? { file: undefined, environment: {} };
  const directory = await openDirectory({ store, account, clock, ids });
  const explain = (holder: Holder, request: AccessRequest): Explanation => {
    const { id, arn } = directory.get(holder);
    const principal = principalOf(account, { ...holder, id, arn });
    const context = { ...contextOf(principal, clock.now()), ...request.context };
    const evaluation = evaluate(directory.policies(holder), { ...request, context });
    return { ...evaluation, principalArn: principal.arn, context };
  };
  const roles = await openRoles({ file, environment, store, clock, log });
  const close = () => roles[Symbol.asyncDispose]();
  return { ...identityOf(options, directory), directory, explain, roles, [Symbol.asyncDispose]: close };
}

function identityOf(options: IdentityOptions, directory: StoredDirectory | undefined): Identity {
  const { account, clock = systemClock } = options;
  const root: Principal = { kind: 'root', account, arn: `arn:aws:iam::${account}:root` };
  const rootKeys = new Map(options.rootKeys.map((key) => [key.accessKeyId, { ...key, principal: root }]));
  return {
    account,
    root,
    authenticate: (accessKeyId) => {
      const found = directory?.credentials(accessKeyId);
      if (found === undefined) return rootKeys.get(accessKeyId);
      const { user, secretAccessKey } = found;
      return { accessKeyId, secretAccessKey, principal: principalOf(account, user) };
    },
    authorize: (principal, action, resource, context = {}) => {
      if (principal.kind === 'root') return { allowed: true };
      const policies = directory?.policies(principal) ?? [];
      const whole = { ...context, ...contextOf(principal, clock.now()) };
      const { outcome } = evaluate(policies, { action, resource, context: whole });
      return decisionOf(outcome, action);
    },
  };
}

function decisionOf(outcome: Outcome, action: string): Decision {
  switch (outcome) {
    case 'allowed':
      return { allowed: true };
    case 'explicit-deny':
      return { allowed: false, because: 'with an explicit deny in an identity-based policy' };
    case 'implicit-deny':
      return { allowed: false, because: `because no identity-based policy allows the ${action} action` };
    default:
      return outcome satisfies never;
  }
}

/** A role acts in sessions; one that is only asked about gets a name that none has. */
function principalOf(account: string, { kind, name, id, arn }: Holder & { id: string; arn: string }): Limited {
  if (kind === 'user') return { kind, account, arn, name, id };
  const session = 'rekindle';
  return { kind, account, arn: `arn:aws:sts::${account}:assumed-role/${name}/${session}`, name, id, session };
}

/** The condition keys that say who asks, and when. */
function contextOf(principal: Limited, now: number): Context {
  const common = {
    'aws:PrincipalAccount': principal.account,
    'aws:PrincipalIsAWSService': 'false',
    'aws:ViaAWSService': 'false',
    'aws:CurrentTime': new Date(now).toISOString(),
    'aws:EpochTime': String(Math.floor(now / 1000)),
  };
  if (principal.kind === 'user') {
    return {
      ...common,
      'aws:PrincipalArn': principal.arn,
      'aws:PrincipalType': 'User',
      'aws:userid': principal.id,
      'aws:username': principal.name,
    };
  }
  return {
    ...common,
    // The role's own ARN, not the session's, as IAM compares it.
    'aws:PrincipalArn': `arn:aws:iam::${principal.account}:role/${principal.name}`,
    'aws:PrincipalType': 'AssumedRole',
    'aws:userid': `${principal.id}:${principal.session}`,
  };
}
