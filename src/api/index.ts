/** The api room's door: the request handlers of the AWS wires. */
export { type ApiOptions, type AuthMode, createApi, type RequestHandler } from './api.ts';
export { createS3, type S3Options } from './s3/s3.ts';
export type { Rates } from './throttle.ts';
