import { ArtifactError } from './errors.ts';

export interface ArtifactUri {
  readonly bucket: string;
  readonly key: string;
}

/** 3 to 63 of lower case letters, digits, dots and hyphens, letter or digit at both ends: also safe as a folder name. */
export const BUCKET_NAME = /^(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/;

/**
 * Reads `s3://<bucket>/<key>`; the key is taken as it stands, without percent decoding.
 * @throws ArtifactError `uri-malformed`
 */
export function parseArtifactUri(uri: string): ArtifactUri {
  const [, bucket = '', key = ''] = /^s3:\/\/([^/]+)\/(.+)$/s.exec(uri) ?? [];
  if (key !== '' && BUCKET_NAME.test(bucket)) return { bucket, key };
  // GUESS: artifact-uri-text
  throw new ArtifactError('uri-malformed', `Invalid code artifact URI: ${uri}. It must have the form s3://bucket/key.`);
}
