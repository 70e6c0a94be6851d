/** The identity room's door: access keys, principals, their policies, and what they may do. */
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
} from './identity.ts';
export type { Context } from './policy/condition.ts';
export type { AccessRequest, Evaluation, Mismatch, Outcome, StatementVerdict } from './policy/evaluate.ts';
