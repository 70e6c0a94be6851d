/** The managed base images this server offers: one, which every image is built on. */
import { DomainError } from '../lib/index.ts';
import type { Page } from '../store/index.ts';
import { imageNotFound, managedImageArn } from './image-arn.ts';
import type { Images, ManagedImageVersionView, PageRequest } from './types.ts';

/** Source: the only managed name seen. */
const NAME = 'al2023-1';
/** The service has 0 and 1; the runtime here has one base. GUESS: managed-base-versions */
const VERSION = '1';
/** There is no true date to tell; a fixed one keeps answers stable. GUESS: managed-base-dates */
const CREATED_AT = Date.UTC(2026, 5, 1);

export function managedImages(region: string): Images['managed'] {
  const imageArn = managedImageArn(region, NAME);
  const image = { imageArn, createdAt: CREATED_AT, updatedAt: CREATED_AT };
  const version: ManagedImageVersionView = { ...image, imageVersion: VERSION, status: 'AVAILABLE' };
  return {
    list: async (request) => onlyPage(request, image),
    listVersions: async (identifier, request) => {
      if (identifier !== imageArn) throw imageNotFound(identifier);
      return onlyPage(request, version);
    },
  };
}

/**
 * The version a new image is built on, as it is echoed: bare integer in, `major.minor` out (recorded).
 * @throws DomainError `INVALID` in the recorded words
 */
export function resolveBase(region: string, arn: string, version: string | undefined): string {
  if (arn === managedImageArn(region, NAME) && (version === undefined || version === VERSION)) return `${VERSION}.0`;
  throw new DomainError(
    'INVALID',
    `No managed MicroVM Image with arn ${arn}${version === undefined ? '' : ` and version ${version}`} is available`,
  );
}

/** There is no second page, so no cursor can be one of ours. */
function onlyPage<T>({ nextToken }: PageRequest, item: T): Page<T> {
  if (nextToken !== undefined) {
    // GUESS: page-token-text
    throw new DomainError(
      'INVALID',
      'Invalid nextToken: it was not returned by this list operation with these filters.',
    );
  }
  return { items: [item], nextToken: null };
}
