/** Multipart uploads: begin, put parts, abort. */
import type { IncomingMessage } from 'node:http';
import type { UploadInfo } from '../../artifacts/index.ts';
import type { S3Call } from './call.ts';
import { readAlgorithm } from './checksums.ts';
import { uploadPartCopy } from './copy.ts';
import { etag, keptHeaders } from './objects.ts';
import { headerOf, readPayload } from './payload.ts';
import { S3Error } from './s3-error.ts';
import { element, S3_NAMESPACE, xmlDocument } from './xml.ts';

/** S3's highest part number. */
const MAX_PARTS = 10_000;
const ONLY_FULL_OBJECT = ['crc64nvme'];
const ONLY_COMPOSITE = ['sha1', 'sha256', 'sha512', 'md5'];

export async function createMultipartUpload(call: S3Call): Promise<void> {
  const { request, store, bucket, key, send } = call;
  const checksum = readChecksumWish(request);
  const contentType = headerOf(request, 'content-type') ?? 'binary/octet-stream';
  const upload = await store.uploads.create(bucket, { key, contentType, headers: keptHeaders(request), checksum });
  const headers: Record<string, string> =
    checksum === undefined
      ? {}
      : { 'x-amz-checksum-algorithm': checksum.algorithm.toUpperCase(), 'x-amz-checksum-type': checksum.type };
  const parts = [element('Bucket', bucket), element('Key', key), element('UploadId', upload.uploadId)];
  send(200, headers, xmlDocument('InitiateMultipartUploadResult', parts, S3_NAMESPACE));
}

export async function uploadPart(call: S3Call): Promise<void> {
  const { request, store, bucket, key, query, signed, send } = call;
  const partNumber = Number(/^\d{1,5}$/.exec(query.get('partNumber') ?? '')?.[0] ?? 0);
  if (partNumber < 1 || partNumber > MAX_PARTS) {
    throw new S3Error('InvalidArgument', `Part number must be an integer between 1 and ${MAX_PARTS}, inclusive`);
  }
  if (headerOf(request, 'x-amz-copy-source') !== undefined) return await uploadPartCopy(call, partNumber);
  const uploadId = query.get('uploadId') ?? '';
  const { checksum } = await store.uploads.find(bucket, key, uploadId);
  const payload = readPayload(request, signed, { computed: checksum && readAlgorithm(checksum.algorithm) });
  const part = await store.uploads.putPart({ bucket, key, uploadId, partNumber }, payload.body, payload.checksums);
  const sums = Object.entries(part.checksums).map(([name, value]) => [`x-amz-checksum-${name}`, value]);
  send(200, { ETag: etag(part), ...Object.fromEntries(sums) });
}

export async function abortMultipartUpload({ store, bucket, key, query, send }: S3Call): Promise<void> {
  await store.uploads.abort(bucket, key, query.get('uploadId') ?? '');
  send(204, {});
}

/** @throws S3Error `InvalidRequest` for an algorithm that has no checksum of the wanted type */
function readChecksumWish(request: IncomingMessage): UploadInfo['checksum'] {
  const name = headerOf(request, 'x-amz-checksum-algorithm');
  const type = headerOf(request, 'x-amz-checksum-type');
  if (name === undefined) {
    if (type === undefined) return undefined;
    throw new S3Error('InvalidRequest', 'The x-amz-checksum-type header can only be used with a checksum algorithm.');
  }
  const algorithm = readAlgorithm(name);
  const wanted = type ?? (ONLY_FULL_OBJECT.includes(algorithm) ? 'FULL_OBJECT' : 'COMPOSITE');
  const isPossible = !(wanted === 'COMPOSITE' ? ONLY_FULL_OBJECT : ONLY_COMPOSITE).includes(algorithm);
  if ((wanted === 'COMPOSITE' || wanted === 'FULL_OBJECT') && isPossible) return { algorithm, type: wanted };
  throw new S3Error(
    'InvalidRequest',
    `The ${wanted} checksum type cannot be used with the ${algorithm} checksum algorithm.`,
  );
}
