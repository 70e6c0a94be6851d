/** The build role's credentials in the guests of a build: the one whose app is snapshotted, and the clone that is validated. */
import type { CredentialHolder } from '../engine/index.ts';
import type { Roles } from '../identity/index.ts';
import type { VersionRecord } from './lifecycle.ts';

/** What is asked of the identity room. */
export type RoleSource = Pick<Roles, 'keep' | 'demandPass'>;

export type LendCredentials = (
  guest: CredentialHolder,
  options: { signal?: AbortSignal | undefined },
) => Promise<AsyncDisposable>;

/** Undefined where no role has credentials. The session's name says which build it was. */
export function lenderOf(roles: RoleSource | undefined, version: VersionRecord): LendCredentials | undefined {
  if (roles === undefined) return undefined;
  const { config, principal, buildId } = version;
  const lease = { roleArn: config.buildRoleArn, principal, sessionName: `build-${buildId}` };
  return (guest, { signal }) => roles.keep(guest, lease, { signal });
}
