/** The artifacts room's door: the embedded object store, and `s3://` artifacts fetched from it and unpacked under guard. */
export { ArtifactError, type ArtifactErrorKind } from './errors.ts';
export type { ExternalStoreOptions } from './external-store.ts';
export { type Artifact, type Artifacts, type ArtifactsOptions, createArtifacts } from './fetch.ts';
export type { ListPosition, ListRequest, ListResult } from './listing.ts';
export type { BucketFile, ObjectInfo } from './object-files.ts';
export {
  createObjectStore,
  type ObjectStore,
  type ObjectStoreOptions,
  type OpenObject,
  type PutOptions,
} from './object-store.ts';
export type { UnzipOptions } from './unzip.ts';
export type { CompleteOptions, PartInfo, UploadInfo, Uploads } from './uploads.ts';
export { type ArtifactUri, parseArtifactUri } from './uri.ts';
export { DEFAULT_UNZIP_LIMITS, type UnzipLimits } from './zip-plan.ts';
