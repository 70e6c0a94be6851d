/** Client tokens of calls that begin a build: the same token with the same parameters answers with what it made before. */
import { DomainError } from '../lib/index.ts';
import { type Claim, fingerprintOf, type Store } from '../store/index.ts';
import type { Catalog } from './catalog.ts';
import type { ImageRecord, VersionRecord } from './lifecycle.ts';

interface Made {
  readonly image: ImageRecord;
  readonly version: VersionRecord;
}

/** Undefined without a token. */
export function claimOf(
  scope: string,
  token: string | undefined,
  parameters: object,
  resource: string,
  createdAt: number,
): Claim | undefined {
  if (token === undefined) return undefined;
  return { scope, token, fingerprint: fingerprintOf(parameters), resource, createdAt };
}

/** What an earlier call with this client token made. @throws DomainError `CONFLICT` */
export async function earlierOf(store: Store, catalog: Catalog, claim: Claim | undefined): Promise<Made | undefined> {
  const earlier = claim && (await store.findClaim(claim.scope, claim.token));
  return earlier && claimedOf(catalog, claim, earlier);
}

/** @throws DomainError `CONFLICT` when the token came with other parameters */
export async function claimedOf(catalog: Catalog, asked: Claim | undefined, earlier: Claim): Promise<Made> {
  if (asked?.fingerprint !== earlier.fingerprint) {
    throw new DomainError('CONFLICT', 'The clientToken was already used with different parameters.');
  }
  const [arn = '', version = '1.0'] = earlier.resource.split('#');
  const [image, row] = [await catalog.image(arn), await catalog.version(arn, version)];
  return { image: image.body, version: row.body };
}
