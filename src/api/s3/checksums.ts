/** The checksums an S3 client may send along: computed while the body passes, compared at its end. */
import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { crc32c, crc64nvme, type RunningSum } from './crc.ts';
import { S3Error } from './s3-error.ts';

const ALGORITHMS = {
  crc32: () => {
    let sum = 0;
    return {
      update: (chunk: Buffer) => {
        sum = crc32(chunk, sum);
      },
      digest: () => {
        const bytes = Buffer.alloc(4);
        bytes.writeUInt32BE(sum);
        return bytes;
      },
    };
  },
  crc32c,
  crc64nvme,
  sha1: () => hashSum('sha1'),
  sha256: () => hashSum('sha256'),
  sha512: () => hashSum('sha512'),
  md5: () => hashSum('md5'),
} as const satisfies Record<string, () => RunningSum>;

export type ChecksumAlgorithm = keyof typeof ALGORITHMS;
export const CHECKSUM_ALGORITHMS = Object.keys(ALGORITHMS) as readonly ChecksumAlgorithm[];
export const CHECKSUM_HEADER = 'x-amz-checksum-';

/** What a request says its body sums up to: in headers, or in trailers that come after the body. */
export interface ExpectedSums {
  /** Base64, from the headers. */
  readonly md5: string | undefined;
  /** Base64 from the headers; undefined where the value follows in a trailer. */
  readonly checksums: ReadonlyMap<ChecksumAlgorithm, string | undefined>;
  /** Computed whether the request says a value or not. */
  readonly computed?: ChecksumAlgorithm | undefined;
}

/** Computes the sums a request speaks of and compares them once the body has ended. */
export class BodySums {
  readonly #expected: ExpectedSums;
  readonly #sums = new Map<ChecksumAlgorithm, RunningSum>();
  readonly #md5 = createHash('md5');
  readonly #verified: Record<string, string> = {};

  constructor(expected: ExpectedSums) {
    this.#expected = expected;
    for (const algorithm of expected.checksums.keys()) this.#sums.set(algorithm, ALGORITHMS[algorithm]());
    const { computed } = expected;
    if (computed !== undefined) this.#sums.set(computed, ALGORITHMS[computed]());
  }

  update(chunk: Buffer): void {
    if (this.#expected.md5 !== undefined) this.#md5.update(chunk);
    for (const sum of this.#sums.values()) sum.update(chunk);
  }

  /** @throws S3Error `BadDigest`, `MalformedTrailerError` when an announced trailer is missing */
  finish(trailers: ReadonlyMap<string, string>): void {
    const { md5, checksums } = this.#expected;
    if (md5 !== undefined && this.#md5.digest('base64') !== md5) {
      throw new S3Error('BadDigest', 'The Content-MD5 you specified did not match what we received.');
    }
    for (const [algorithm, inHeader] of checksums) {
      const expected = inHeader ?? trailers.get(`${CHECKSUM_HEADER}${algorithm}`);
      if (expected === undefined) {
        throw new S3Error(
          'MalformedTrailerError',
          `The trailer ${CHECKSUM_HEADER}${algorithm} was announced but not sent.`,
        );
      }
      const actual = this.#sums.get(algorithm)?.digest().toString('base64');
      if (actual !== expected) {
        const name = algorithm.toUpperCase();
        throw new S3Error('BadDigest', `The ${name} you specified did not match the calculated checksum.`);
      }
      this.#verified[algorithm] = expected;
    }
    const { computed } = this.#expected;
    if (computed === undefined || checksums.has(computed)) return;
    this.#verified[computed] = this.#sums.get(computed)?.digest().toString('base64') ?? '';
  }

  /** Algorithm to base64 value, once finished. */
  get verified(): Readonly<Record<string, string>> {
    return this.#verified;
  }
}

/** The checksum over the raw checksums of parts, as S3 writes it: `<base64>-<parts>`. */
export function compositeChecksum(algorithm: ChecksumAlgorithm, parts: readonly string[]): string {
  const sum = ALGORITHMS[algorithm]();
  for (const part of parts) sum.update(Buffer.from(part, 'base64'));
  return `${sum.digest().toString('base64')}-${parts.length}`;
}

/** The algorithm behind a name in any case. @throws S3Error `InvalidRequest` */
export function readAlgorithm(name: string): ChecksumAlgorithm {
  const found = CHECKSUM_ALGORITHMS.find((algorithm) => algorithm === name.toLowerCase());
  if (found !== undefined) return found;
  throw new S3Error('InvalidRequest', `Checksum algorithm provided is unsupported: ${name}`);
}

function hashSum(name: string): RunningSum {
  const hash = createHash(name);
  return { update: (chunk) => void hash.update(chunk), digest: () => hash.digest() };
}
