/**
 * Image ARNs. Image operations take full ARNs only.
 *
 * Source: recorded refusals (bare name 400, slash form and foreign account 403, unknown image 404).
 */
import { DomainError } from '../lib/index.ts';

export interface Owner {
  readonly region: string;
  readonly accountId: string;
}

export function imageArn({ region, accountId }: Owner, name: string): string {
  return `arn:aws:lambda:${region}:${accountId}:microvm-image:${name}`;
}

export function managedImageArn(region: string, name: string): string {
  return `arn:aws:lambda:${region}:aws:microvm-image:${name}`;
}

/**
 * Checks an identifier and returns it. RunMicrovm words the refusal of a bare name differently.
 * @throws DomainError `INVALID`, `DENIED`
 */
export function checkImageArn(owner: Owner, identifier: string, operation: 'run' | 'image'): string {
  if (!identifier.startsWith('arn:')) {
    throw new DomainError(
      'INVALID',
      operation === 'run' ? "Malformed ARN - doesn't start with 'arn:'" : `Invalid ARN format: ${identifier}`,
    );
  }
  const match = /^arn:[a-z0-9-]+:lambda:([a-z0-9-]*):([a-z0-9]*):microvm-image[:/](.+)$/.exec(identifier);
  if (match === null) throw new DomainError('INVALID', `Invalid ARN format: ${identifier}`);
  // The service answers these two with its IAM wording; the principal is not known here. GUESS: foreign-image-text
  if (match[2] !== owner.accountId || !identifier.includes(':microvm-image:')) {
    throw new DomainError('DENIED', `Not authorized to access the resource ${identifier}.`);
  }
  return identifier;
}

export function imageNotFound(arn: string): DomainError {
  return new DomainError('NOT_FOUND', `MicroVMImage not found for MicroVMImageID: ${arn}`);
}

export function versionNotFound(arn: string, version: string): DomainError {
  return new DomainError('NOT_FOUND', `MicroVMImage not found for MicroVMImage: ${arn}, Version: ${version}`);
}
