import type { IncomingMessage, ServerResponse } from 'node:http';
import type { ObjectStore } from '../../artifacts/index.ts';
import type { SignedRequest } from '../sigv4.ts';

/** One S3 request on its way: what it is about, and how to answer. */
export interface S3Call {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly store: ObjectStore;
  readonly region: string;
  /** Empty where the operation is not about a bucket, or not about an object. */
  readonly bucket: string;
  readonly key: string;
  readonly query: ReadonlyMap<string, string>;
  /** Absent when signatures are not checked. */
  readonly signed: SignedRequest | undefined;
  /** Whether the caller may also do this: for requests that touch more than their path names. */
  isAllowed(action: string, target: { readonly bucket: string | undefined; readonly key: string | undefined }): boolean;
  /** Ends the response. XML gets its content type; no body, none. */
  send(status: number, headers: Readonly<Record<string, string | number>>, xml?: string): void;
}
