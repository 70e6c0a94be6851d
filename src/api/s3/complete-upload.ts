/** CompleteMultipartUpload: the parts named by the client, checked, become one object. */
import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { CompleteOptions, PartInfo, UploadInfo } from '../../artifacts/index.ts';
import type { S3Call } from './call.ts';
import { BodySums, type ChecksumAlgorithm, compositeChecksum, readAlgorithm } from './checksums.ts';
import { checksumElements } from './copy.ts';
import { malformedXml } from './delete-objects.ts';
import { checksumType, etag, isOnlyIfAbsent } from './objects.ts';
import { announcedChecksums, headerOf, readShortPayload } from './payload.ts';
import { S3Error } from './s3-error.ts';
import { element, type ReadElement, readXml, S3_NAMESPACE, xmlDocument } from './xml.ts';

const MAX_PARTS = 10_000;
/** Every part but the last has at least as many. */
const MIN_PART_BYTES = 5 * 1024 * 1024;
/** Ten thousand parts with their ETags and checksums. */
const BODY = { maxBytes: 4 * 1024 * 1024, sumsAreOfBody: false };

export async function completeMultipartUpload(call: S3Call): Promise<void> {
  const { request, store, bucket, key, query, signed, send } = call;
  const named = readParts(await readShortPayload(request, signed, BODY));
  const onlyIfAbsent = isOnlyIfAbsent(request);
  const where = { bucket, key, uploadId: query.get('uploadId') ?? '' };
  const info = await store.uploads.complete(where, (upload, present) => {
    const parts = chooseParts(named, present);
    checkWhole(request, upload, parts);
    return { parts, onlyIfAbsent, etag: etagOf(parts), ...wholeChecksum(request, upload, parts) };
  });
  const elements = [
    element('Location', `http://${request.headers.host ?? ''}/${bucket}/${encodeURIComponent(key)}`),
    element('Bucket', bucket),
    element('Key', key),
    element('ETag', etag(info)),
    ...checksumElements(info.checksums),
    ...(Object.keys(info.checksums).length === 0 ? [] : [element('ChecksumType', checksumType(info.checksums))]),
  ];
  send(200, {}, xmlDocument('CompleteMultipartUploadResult', elements, S3_NAMESPACE));
}

interface NamedPart {
  readonly partNumber: number;
  readonly etag: string;
  /** By algorithm. */
  readonly checksums: Readonly<Record<string, string>>;
}

function readParts(text: string): NamedPart[] {
  const root = readXml(text);
  const parts = root?.children.filter(({ name }) => name === 'Part') ?? [];
  if (root?.name !== 'CompleteMultipartUpload' || parts.length === 0 || parts.length > MAX_PARTS) throw malformedXml();
  return parts.map(readPart);
}

function readPart({ children }: ReadElement): NamedPart {
  const textOf = (name: string) => children.find((child) => child.name === name)?.text.trim();
  const partNumber = Number(textOf('PartNumber'));
  const tag = textOf('ETag');
  if (!Number.isInteger(partNumber) || tag === undefined) throw malformedXml();
  const sums = children.filter(({ name }) => name.startsWith('Checksum'));
  const checksums = Object.fromEntries(sums.map(({ name, text }) => [name.slice(8).toLowerCase(), text.trim()]));
  return { partNumber, etag: tag.replaceAll('"', ''), checksums };
}

/** @throws S3Error `InvalidPart`, `InvalidPartOrder`, `EntityTooSmall` */
function chooseParts(named: readonly NamedPart[], present: readonly PartInfo[]): PartInfo[] {
  const byNumber = new Map(present.map((part) => [part.partNumber, part]));
  if (named.some(({ partNumber }, index) => partNumber <= (named[index - 1]?.partNumber ?? 0))) {
    throw new S3Error(
      'InvalidPartOrder',
      'The list of parts was not in ascending order. Parts must be ordered by part number.',
    );
  }
  return named.map(({ partNumber, etag, checksums }, index) => {
    const part = byNumber.get(partNumber);
    const fits = Object.entries(checksums).every(([name, value]) => (part?.checksums[name] ?? value) === value);
    if (part?.etag !== etag || !fits) {
      throw new S3Error(
        'InvalidPart',
        "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.",
        { PartNumber: String(partNumber), ETag: etag },
      );
    }
    if (part.size < MIN_PART_BYTES && index < named.length - 1) {
      throw new S3Error('EntityTooSmall', 'Your proposed upload is smaller than the minimum allowed size', {
        ProposedSize: String(part.size),
        MinSizeAllowed: String(MIN_PART_BYTES),
        PartNumber: String(partNumber),
        ETag: etag,
      });
    }
    return part;
  });
}

/** @throws S3Error `InvalidRequest` when the client expects another size or type of checksum */
function checkWhole(request: IncomingMessage, upload: UploadInfo, parts: readonly PartInfo[]): void {
  const wanted = headerOf(request, 'x-amz-mp-object-size');
  const size = parts.reduce((sum, part) => sum + part.size, 0);
  if (wanted !== undefined && wanted !== String(size)) {
    throw new S3Error('InvalidRequest', `The provided 'x-amz-mp-object-size' header does not match: it is ${size}.`);
  }
  const type = headerOf(request, 'x-amz-checksum-type');
  if (type !== undefined && type !== upload.checksum?.type) {
    throw new S3Error('InvalidRequest', `The upload was created using the ${upload.checksum?.type} checksum mode.`);
  }
}

function etagOf(parts: readonly PartInfo[]): string {
  const md5 = createHash('md5');
  for (const part of parts) md5.update(Buffer.from(part.etag, 'hex'));
  return `${md5.digest('hex')}-${parts.length}`;
}

/** The object's checksum: over the parts' checksums, or over all bytes while they are put together. */
function wholeChecksum(
  request: IncomingMessage,
  upload: UploadInfo,
  parts: readonly PartInfo[],
): Pick<CompleteOptions, 'through' | 'checksums'> {
  const announced = announcedChecksums(request);
  if (upload.checksum === undefined) {
    return announced.size === 0 ? { checksums: () => ({}) } : summed(announced, undefined);
  }
  const algorithm = readAlgorithm(upload.checksum.algorithm);
  if (upload.checksum.type === 'FULL_OBJECT') return summed(announced, algorithm);
  const value = compositeChecksum(
    algorithm,
    parts.map((part) => part.checksums[algorithm] ?? ''),
  );
  const expected = announced.get(algorithm);
  if (expected !== undefined && expected !== value) {
    const name = algorithm.toUpperCase();
    throw new S3Error('BadDigest', `The ${name} you specified did not match the calculated checksum.`);
  }
  return { checksums: () => ({ [algorithm]: value }) };
}

function summed(
  announced: ReadonlyMap<ChecksumAlgorithm, string | undefined>,
  computed: ChecksumAlgorithm | undefined,
): Pick<CompleteOptions, 'through' | 'checksums'> {
  const sums = new BodySums({ md5: undefined, checksums: announced, computed });
  return {
    async *through(body) {
      for await (const chunk of body) {
        sums.update(chunk);
        yield chunk;
      }
      sums.finish(new Map());
    },
    checksums: () => sums.verified,
  };
}
