/**
 * The `aws-chunked` body: pieces with their length, optionally signed one by one, and trailers at the end.
 *
 * Bytes are passed on before their piece's signature was checked; the reader must not publish them until the generator
 * has ended. Memory use does not grow with a piece.
 */
import { createHash, createHmac } from 'node:crypto';
import { sameText } from '../sigv4.ts';
import { S3Error } from './s3-error.ts';

/** How the pieces of a signed stream are checked: each signature covers the one before. */
export interface ChunkSigning {
  readonly key: Buffer;
  readonly timestamp: string;
  readonly scope: string;
  /** The request's own signature. */
  readonly seed: string;
}

const EMPTY_SHA256 = createHash('sha256').digest('hex');
const MAX_LINE_BYTES = 4096;
const MAX_TRAILERS = 16;

/**
 * Decodes the pieces; trailers are put into `trailers` before the end.
 * @throws S3Error `IncompleteBody`, `InvalidRequest`, `SignatureDoesNotMatch`
 */
export async function* decodeAwsChunked(
  source: AsyncIterable<Buffer>,
  options: { signing: ChunkSigning | undefined; trailers: Map<string, string> },
): AsyncGenerator<Buffer> {
  const reader = new ByteReader(source);
  const { signing, trailers } = options;
  let previous = signing?.seed ?? '';
  for (;;) {
    const [sizeText = '', extension = ''] = (await reader.line()).split(';');
    if (!/^[0-9a-fA-F]{1,12}$/.test(sizeText)) throw new S3Error('InvalidRequest', 'A chunk has no readable size.');
    const size = Number.parseInt(sizeText, 16);
    const hash = createHash('sha256');
    for await (const piece of reader.bytes(size)) {
      if (signing !== undefined) hash.update(piece);
      yield piece;
    }
    if (signing !== undefined) {
      const parts = ['AWS4-HMAC-SHA256-PAYLOAD', signing.timestamp, signing.scope, previous, EMPTY_SHA256];
      previous = check(signing, [...parts, hash.digest('hex')], extension.replace('chunk-signature=', ''));
    }
    if (size === 0) break;
    if ((await reader.line()) !== '') throw new S3Error('InvalidRequest', 'A chunk is longer than it says.');
  }
  await readTrailers(reader, trailers);
  if (signing !== undefined && trailers.size > 0) checkTrailers(signing, previous, trailers);
}

async function readTrailers(reader: ByteReader, trailers: Map<string, string>): Promise<void> {
  for (;;) {
    const line = await reader.line({ endIsEmptyLine: true });
    if (line === '') return;
    const at = line.indexOf(':');
    if (at < 0 || trailers.size >= MAX_TRAILERS)
      throw new S3Error('MalformedTrailerError', 'A trailer cannot be read.');
    trailers.set(line.slice(0, at).trim().toLowerCase(), line.slice(at + 1).trim());
  }
}

function checkTrailers(signing: ChunkSigning, previous: string, trailers: ReadonlyMap<string, string>): void {
  const signature = trailers.get('x-amz-trailer-signature') ?? '';
  const lines = [...trailers].filter(([name]) => name !== 'x-amz-trailer-signature').sort();
  const hash = createHash('sha256').update(lines.map(([name, value]) => `${name}:${value}\n`).join(''));
  const parts = ['AWS4-HMAC-SHA256-TRAILER', signing.timestamp, signing.scope, previous, hash.digest('hex')];
  check(signing, parts, signature);
}

function check(signing: ChunkSigning, parts: readonly string[], signature: string): string {
  const expected = createHmac('sha256', signing.key).update(parts.join('\n')).digest('hex');
  if (sameText(expected, signature)) return signature;
  throw new S3Error('SignatureDoesNotMatch', 'A chunk of the body does not match its signature.');
}

/** Reads lines and counted bytes from a stream of pieces. */
class ByteReader {
  readonly #source: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  async #more(): Promise<Buffer | undefined> {
    const next = await this.#source.next();
    return next.done === true ? undefined : next.value;
  }

  /** Up to the next CRLF, which is left out. */
  async line(options: { endIsEmptyLine?: boolean } = {}): Promise<string> {
    for (;;) {
      const end = this.#rest.indexOf('\r\n');
      if (end >= 0) {
        const text = this.#rest.toString('latin1', 0, end);
        this.#rest = this.#rest.subarray(end + 2);
        return text;
      }
      if (this.#rest.length > MAX_LINE_BYTES) throw new S3Error('InvalidRequest', 'A line of the body is too long.');
      const more = await this.#more();
      if (more === undefined) {
        if (options.endIsEmptyLine === true && this.#rest.length === 0) return '';
        throw incomplete();
      }
      this.#rest = Buffer.concat([this.#rest, more]);
    }
  }

  async *bytes(count: number): AsyncGenerator<Buffer> {
    let left = count;
    while (left > 0) {
      if (this.#rest.length === 0) {
        const more = await this.#more();
        if (more === undefined) throw incomplete();
        this.#rest = more;
      }
      const piece = this.#rest.subarray(0, left);
      this.#rest = this.#rest.subarray(piece.length);
      left -= piece.length;
      if (piece.length > 0) yield piece;
    }
  }
}

function incomplete(): S3Error {
  return new S3Error(
    'IncompleteBody',
    'You did not provide the number of bytes specified by the Content-Length header',
  );
}
