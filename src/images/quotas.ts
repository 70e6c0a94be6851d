/** How much of everything an account may have, as conditions on the write that would add to it; none unless configured. */
import { DomainError } from '../lib/index.ts';
import type { Write } from '../store/index.ts';
import type { Catalog } from './catalog.ts';

export interface ImageQuotas {
  readonly images?: number | undefined;
  readonly versionsPerImage?: number | undefined;
  /** Begun and waiting ones, over all images. */
  readonly concurrentBuilds?: number | undefined;
}

/** A condition with what the caller is told when it does not hold. */
export interface Condition {
  readonly write: Write;
  readonly refusal: () => DomainError;
}

export function newImageConditions(quotas: ImageQuotas, catalog: Catalog): Condition[] {
  return [
    ...limit(quotas.images, 'The maximum number of MicroVM images has been reached for this account.', (than) =>
      catalog.images.fewer(than, {}),
    ),
    ...buildCondition(quotas, catalog),
  ];
}

export function newVersionConditions(quotas: ImageQuotas, catalog: Catalog, arn: string): Condition[] {
  return [
    ...limit(
      quotas.versionsPerImage,
      'The maximum number of versions has been reached for this MicroVM image.',
      (than) => catalog.versions.fewer(than, { group: arn }),
    ),
    ...buildCondition(quotas, catalog),
  ];
}

function buildCondition(quotas: ImageQuotas, catalog: Catalog): Condition[] {
  const text = 'The maximum number of concurrent MicroVM image builds has been reached for this account.';
  return limit(quotas.concurrentBuilds, text, (than) =>
    catalog.versions.fewer(than, { states: ['PENDING', 'IN_PROGRESS'] }),
  );
}

/** That builds are named is recorded, the sentences are not. GUESS: quota-texts */
function limit(than: number | undefined, text: string, write: (than: number) => Write): Condition[] {
  return than === undefined ? [] : [{ write: write(than), refusal: () => new DomainError('QUOTA', text) }];
}
