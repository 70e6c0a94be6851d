/** The identity room's door: access keys, principals, their policies, what they may do, and the credentials of roles. */
export type { AccessKeyView, Directory, Holder, HolderKind, HolderView, NewAccessKey } from './directory.ts';
export {
  type Credentials,
  createIdentity,
  type Decision,
  type Explanation,
  type Identity,
  type IdentityOptions,
  type OpenIdentity,
  openIdentity,
  type Principal,
  type RoleSettings,
} from './identity.ts';
export type { Context } from './policy/condition.ts';
export type { AccessRequest, Evaluation, Mismatch, Outcome, StatementVerdict } from './policy/evaluate.ts';
export type { RevokedRole } from './roles/revocations.ts';
export type { CredentialTarget, Lease, RoleCredentials } from './roles/role-credentials.ts';
export type { Roles } from './roles/roles.ts';
