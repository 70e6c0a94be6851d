/** ListParts and ListMultipartUploads. */
import type { UploadInfo } from '../../artifacts/index.ts';
import type { S3Call } from './call.ts';
import { checksumElements } from './copy.ts';
import { etag } from './objects.ts';
import { S3Error } from './s3-error.ts';
import { element, S3_NAMESPACE, type Xml, xmlDocument } from './xml.ts';

const owner = [element('ID', 'rekindle'), element('DisplayName', 'rekindle')];

export async function listParts({ store, bucket, key, query, send }: S3Call): Promise<void> {
  const uploadId = query.get('uploadId') ?? '';
  const upload = await store.uploads.find(bucket, key, uploadId);
  const marker = readCount(query, 'part-number-marker', 0);
  const limit = Math.min(readCount(query, 'max-parts', 1000), 1000);
  const all = (await store.uploads.parts(bucket, key, uploadId)).filter((part) => part.partNumber > marker);
  const shown = all.slice(0, limit);
  const elements: Xml[] = [
    element('Bucket', bucket),
    element('Key', key),
    element('UploadId', uploadId),
    element('Initiator', owner),
    element('Owner', owner),
    element('StorageClass', 'STANDARD'),
    element('PartNumberMarker', marker),
    element('NextPartNumberMarker', shown.at(-1)?.partNumber ?? 0),
    element('MaxParts', limit),
    element('IsTruncated', all.length > shown.length),
    ...checksumWishElements(upload),
  ];
  for (const part of shown) {
    elements.push(
      element('Part', [
        element('PartNumber', part.partNumber),
        element('LastModified', new Date(part.modifiedAt).toISOString()),
        element('ETag', etag(part)),
        element('Size', part.size),
        ...checksumElements(part.checksums),
      ]),
    );
  }
  send(200, {}, xmlDocument('ListPartsResult', elements, S3_NAMESPACE));
}

export async function listMultipartUploads({ store, bucket, query, send }: S3Call): Promise<void> {
  const prefix = query.get('prefix') ?? '';
  const keyMarker = query.get('key-marker') ?? '';
  const idMarker = query.get('upload-id-marker') ?? '';
  const limit = Math.min(readCount(query, 'max-uploads', 1000), 1000);
  const found = (await store.uploads.list(bucket)).filter(({ key }) => key.startsWith(prefix));
  // The marker's own upload may be gone by now; its key then stands for it.
  const at = found.findIndex((upload) => upload.key === keyMarker && upload.uploadId === idMarker);
  const rest = at >= 0 ? found.slice(at + 1) : found.filter(({ key }) => keyMarker === '' || key > keyMarker);
  const shown = rest.slice(0, limit);
  const isTruncated = rest.length > shown.length;
  const elements: Xml[] = [
    element('Bucket', bucket),
    element('KeyMarker', keyMarker),
    element('UploadIdMarker', idMarker),
    element('Prefix', prefix),
    element('MaxUploads', limit),
    element('IsTruncated', isTruncated),
  ];
  const last = shown.at(-1);
  if (isTruncated && last !== undefined) {
    elements.push(element('NextKeyMarker', last.key), element('NextUploadIdMarker', last.uploadId));
  }
  for (const upload of shown) {
    elements.push(
      element('Upload', [
        element('Key', upload.key),
        element('UploadId', upload.uploadId),
        element('Initiator', owner),
        element('Owner', owner),
        element('StorageClass', 'STANDARD'),
        element('Initiated', new Date(upload.startedAt).toISOString()),
        ...checksumWishElements(upload),
      ]),
    );
  }
  send(200, {}, xmlDocument('ListMultipartUploadsResult', elements, S3_NAMESPACE));
}

function checksumWishElements({ checksum }: UploadInfo): Xml[] {
  if (checksum === undefined) return [];
  const algorithm = element('ChecksumAlgorithm', checksum.algorithm.toUpperCase());
  return [algorithm, element('ChecksumType', checksum.type)];
}

function readCount(query: S3Call['query'], name: string, fallback: number): number {
  const text = query.get(name);
  if (text === undefined || text === '') return fallback;
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new S3Error('InvalidArgument', `Provided ${name} not an integer or within integer range`);
}
