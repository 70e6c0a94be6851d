/** The identity room's door: access keys, principals and what they may do. */
export {
  type Credentials,
  createIdentity,
  type Decision,
  type Identity,
  type IdentityOptions,
  type Principal,
} from './identity.ts';
