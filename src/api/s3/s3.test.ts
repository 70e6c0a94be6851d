/** The S3 wire, driven by the official client; by hand only what that client refuses to send. */
import assert from 'node:assert/strict';
import { createHash, createHmac } from 'node:crypto';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { test } from 'node:test';
import { Sha256 } from '@aws-crypto/sha256-js';
import {
  type ChecksumAlgorithm,
  CreateBucketCommand,
  DeleteBucketCommand,
  DeleteObjectCommand,
  GetBucketLocationCommand,
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListBucketsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
} from '@aws-sdk/client-s3';
import { HttpRequest } from '@smithy/protocol-http';
import { SignatureV4 } from '@smithy/signature-v4';
import { credentials, region, serve } from './test-bench.ts';

test('an object put by the official client reads back with all it was given', async () => {
  await using place = await serve();
  const put = await place.s3.send(
    new PutObjectCommand({
      Bucket: 'bucket',
      Key: 'some/key.zip',
      Body: 'hello',
      ContentType: 'application/zip',
      CacheControl: 'no-cache',
      Metadata: { owner: 'me' },
    }),
  );
  assert.equal(put.ETag, '"5d41402abc4b2a76b9719d911017c592"');
  assert.equal(put.ChecksumCRC32, 'NhCmhg==');
  const got = await place.s3.send(new GetObjectCommand({ Bucket: 'bucket', Key: 'some/key.zip' }));
  assert.equal(await got.Body?.transformToString(), 'hello');
  assert.deepEqual(
    [got.ContentType, got.CacheControl, got.ContentLength, got.Metadata, got.ETag, got.ContentEncoding],
    ['application/zip', 'no-cache', 5, { owner: 'me' }, put.ETag, undefined],
  );
  const head = await place.s3.send(new HeadObjectCommand({ Bucket: 'bucket', Key: 'some/key.zip' }));
  assert.deepEqual([head.ContentLength, head.Metadata], [5, { owner: 'me' }]);
});

test('a stream of several megabytes arrives whole, its checksum in a trailer', async () => {
  await using place = await serve();
  const bytes = Buffer.alloc(5_000_000, 'rekindle');
  const pieces = Array.from({ length: 50 }, (_, i) => bytes.subarray(i * 100_000, (i + 1) * 100_000));
  await place.s3.send(
    new PutObjectCommand({
      Bucket: 'bucket',
      Key: 'k',
      Body: Readable.from(pieces),
      ContentLength: bytes.length,
    }),
  );
  const object = await place.store.head('bucket', 'k');
  assert.equal(object.etag, createHash('md5').update(bytes).digest('hex'));
  assert.equal(object.headers['content-encoding'], undefined);
  assert.notEqual(object.checksums.crc32, undefined);
  const got = await place.s3.send(new GetObjectCommand({ Bucket: 'bucket', Key: 'k' }));
  assert.deepEqual(Buffer.from((await got.Body?.transformToByteArray()) ?? []), bytes);
});

for (const algorithm of ['CRC32', 'CRC32C', 'SHA1', 'SHA256'] as const satisfies readonly ChecksumAlgorithm[]) {
  test(`a ${algorithm} made by the client is verified, kept and given back`, async () => {
    await using place = await serve();
    const object = { Bucket: 'bucket', Key: 'k' };
    const put = await place.s3.send(new PutObjectCommand({ ...object, Body: 'hello', ChecksumAlgorithm: algorithm }));
    const member = `Checksum${algorithm}` as const;
    assert.notEqual(put[member], undefined);
    const got = await place.s3.send(new GetObjectCommand({ ...object, ChecksumMode: 'ENABLED' }));
    assert.equal(got[member], put[member]);
    assert.equal(await got.Body?.transformToString(), 'hello');
  });
}

test('checksums that do not fit are refused and nothing is stored', async () => {
  await using place = await serve();
  const put = (more: object) =>
    place.s3.send(new PutObjectCommand({ Bucket: 'bucket', Key: 'k', Body: 'hello', ...more }));
  await assert.rejects(put({ ChecksumCRC32: 'AAAAAA==' }), { name: 'BadDigest' });
  await assert.rejects(put({ ChecksumCRC64NVME: 'AAAAAAAAAAA=' }), { name: 'BadDigest' });
  await assert.rejects(put({ ContentMD5: createHash('md5').update('x').digest('base64') }), { name: 'BadDigest' });
  await assert.rejects(put({ ContentMD5: 'short' }), { name: 'InvalidDigest' });
  await assert.rejects(place.store.head('bucket', 'k'), { kind: 'no-such-key' });
  await put({ ContentMD5: createHash('md5').update('hello').digest('base64') });
});

test('ranges give the part asked for', async () => {
  await using place = await serve();
  const object = { Bucket: 'bucket', Key: 'k' };
  await place.s3.send(new PutObjectCommand({ ...object, Body: '0123456789' }));
  const part = async (Range: string) => {
    const got = await place.s3.send(new GetObjectCommand({ ...object, Range }));
    return [await got.Body?.transformToString(), got.ContentRange];
  };
  assert.deepEqual(await part('bytes=2-4'), ['234', 'bytes 2-4/10']);
  assert.deepEqual(await part('bytes=8-'), ['89', 'bytes 8-9/10']);
  assert.deepEqual(await part('bytes=-3'), ['789', 'bytes 7-9/10']);
  assert.deepEqual(await part('bytes=5-500'), ['56789', 'bytes 5-9/10']);
  assert.deepEqual(await part('bytes=4-2'), ['0123456789', undefined]);
  await assert.rejects(part('bytes=10-'), { name: 'InvalidRange' });
});

test('preconditions hold', async () => {
  await using place = await serve();
  const object = { Bucket: 'bucket', Key: 'k' };
  const { ETag } = await place.s3.send(new PutObjectCommand({ ...object, Body: 'a', IfNoneMatch: '*' }));
  await assert.rejects(place.s3.send(new PutObjectCommand({ ...object, Body: 'b', IfNoneMatch: '*' })), {
    name: 'PreconditionFailed',
  });
  await assert.rejects(place.s3.send(new GetObjectCommand({ ...object, IfMatch: '"other"' })), {
    name: 'PreconditionFailed',
  });
  await assert.rejects(place.s3.send(new GetObjectCommand({ ...object, IfNoneMatch: ETag })), (error: Error) => {
    return '$metadata' in error && (error.$metadata as { httpStatusCode: number }).httpStatusCode === 304;
  });
});

test('keys of every kind survive the wire', async () => {
  await using place = await serve();
  const keys = ['a b+c%20', 'ü/\u{1F600}', '../../etc/passwd', "quote'(x)*!", 'a//b', '&<>"'];
  for (const Key of keys) await place.s3.send(new PutObjectCommand({ Bucket: 'bucket', Key, Body: Key }));
  for (const Key of keys) {
    const got = await place.s3.send(new GetObjectCommand({ Bucket: 'bucket', Key }));
    assert.equal(await got.Body?.transformToString(), Key);
  }
  for (const EncodingType of [undefined, 'url'] as const) {
    const list = await place.s3.send(new ListObjectsV2Command({ Bucket: 'bucket', EncodingType }));
    const shown = list.Contents?.map(({ Key = '' }) => (EncodingType === 'url' ? decodeURIComponent(Key) : Key));
    assert.deepEqual(shown?.sort(), [...keys].sort());
  }
});

test('listing pages through prefixes and keys', async () => {
  await using place = await serve();
  for (const Key of ['a/1', 'a/2', 'b', 'c/1']) {
    await place.s3.send(new PutObjectCommand({ Bucket: 'bucket', Key, Body: Key }));
  }
  const seen: (string | undefined)[] = [];
  for (let ContinuationToken: string | undefined; ; ) {
    const list = await place.s3.send(
      new ListObjectsV2Command({ Bucket: 'bucket', Delimiter: '/', MaxKeys: 1, ContinuationToken }),
    );
    assert.equal(list.KeyCount, 1);
    seen.push(...(list.Contents ?? []).map(({ Key }) => Key), ...(list.CommonPrefixes ?? []).map((p) => p.Prefix));
    ContinuationToken = list.NextContinuationToken;
    if (list.IsTruncated !== true) break;
  }
  assert.deepEqual(seen, ['a/', 'b', 'c/']);
  await assert.rejects(place.s3.send(new ListObjectsV2Command({ Bucket: 'bucket', ContinuationToken: 'made-up' })), {
    name: 'InvalidArgument',
  });
});

test('buckets are made, found, listed and deleted', async () => {
  await using place = await serve();
  const { s3 } = place;
  await s3.send(new CreateBucketCommand({ Bucket: 'second' }));
  await s3.send(new CreateBucketCommand({ Bucket: 'second' }));
  const { Buckets } = await s3.send(new ListBucketsCommand());
  assert.deepEqual(
    Buckets?.map(({ Name }) => Name),
    ['bucket', 'second'],
  );
  assert.equal((await s3.send(new HeadBucketCommand({ Bucket: 'second' }))).BucketRegion, region);
  assert.equal((await s3.send(new GetBucketLocationCommand({ Bucket: 'second' }))).LocationConstraint, undefined);
  await s3.send(new PutObjectCommand({ Bucket: 'second', Key: 'k', Body: 'x' }));
  await assert.rejects(s3.send(new DeleteBucketCommand({ Bucket: 'second' })), { name: 'BucketNotEmpty' });
  await s3.send(new DeleteObjectCommand({ Bucket: 'second', Key: 'k' }));
  await s3.send(new DeleteObjectCommand({ Bucket: 'second', Key: 'k' }));
  await s3.send(new DeleteBucketCommand({ Bucket: 'second' }));
  await assert.rejects(s3.send(new HeadBucketCommand({ Bucket: 'second' })), { name: 'NotFound' });
  await assert.rejects(s3.send(new CreateBucketCommand({ Bucket: 'Not_Valid' })), { name: 'InvalidBucketName' });
});

test('what is missing is named as S3 names it', async () => {
  await using place = await serve();
  await assert.rejects(place.s3.send(new GetObjectCommand({ Bucket: 'bucket', Key: 'k' })), { name: 'NoSuchKey' });
  await assert.rejects(place.s3.send(new GetObjectCommand({ Bucket: 'nowhere', Key: 'k' })), { name: 'NoSuchBucket' });
  await assert.rejects(place.s3.send(new PutObjectCommand({ Bucket: 'nowhere', Key: 'k', Body: 'x' })), {
    name: 'NoSuchBucket',
  });
  await assert.rejects(place.s3.send(new HeadObjectCommand({ Bucket: 'bucket', Key: 'k' })), { name: 'NotFound' });
});

test('wrong keys and secrets are refused as S3 refuses them', async () => {
  await using place = await serve();
  const list = (keys: typeof credentials) => place.client({ credentials: keys }).send(new ListBucketsCommand());
  await assert.rejects(list({ ...credentials, secretAccessKey: 'x' }), { name: 'SignatureDoesNotMatch' });
  await assert.rejects(list({ ...credentials, accessKeyId: 'x' }), { name: 'InvalidAccessKeyId' });
  const other = place.client({ region: 'eu-west-1', followRegionRedirects: false });
  await assert.rejects(other.send(new ListBucketsCommand()), { name: 'AuthorizationHeaderMalformed' });
});

interface RawAnswer {
  readonly status: number | undefined;
  readonly body: string;
}

/** Sends a request signed by hand; `change` may spoil it after signing. */
async function raw(
  port: number,
  options: {
    method: string;
    path: string;
    headers?: Record<string, string>;
    query?: Record<string, string>;
    body?: string | ((signature: string, date: string) => string);
    unsigned?: boolean;
  },
): Promise<RawAnswer> {
  const signer = new SignatureV4({ credentials, region, service: 's3', sha256: Sha256, uriEscapePath: false });
  const { method, path, query = {} } = options;
  const plain = new HttpRequest({
    method,
    path,
    query,
    headers: { host: `127.0.0.1:${port}`, 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD', ...options.headers },
  });
  const { headers } = options.unsigned === true ? plain : await signer.sign(plain);
  const signature = /Signature=(\w+)/.exec(headers.authorization ?? '')?.[1] ?? '';
  const body = typeof options.body === 'function' ? options.body(signature, headers['x-amz-date'] ?? '') : options.body;
  const target = Object.keys(query).length === 0 ? path : `${path}?${new URLSearchParams(query)}`;
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    httpRequest({ host: '127.0.0.1', port, method, path: target, headers }, resolve).on('error', reject).end(body);
  });
  return { status: response.statusCode, body: await text(response) };
}

const codeOf = ({ status, body }: RawAnswer) => `${status} ${/<Code>(\w+)</.exec(body)?.[1]}`;

test('a request without a signature is refused', async () => {
  await using place = await serve();
  assert.equal(codeOf(await raw(place.port, { method: 'GET', path: '/', unsigned: true })), '403 AccessDenied');
});

test('a body that is not what was signed is refused', async () => {
  await using place = await serve();
  const headers = { 'x-amz-content-sha256': createHash('sha256').update('signed').digest('hex') };
  const answer = await raw(place.port, { method: 'PUT', path: '/bucket/k', headers, body: 'sent' });
  assert.equal(codeOf(answer), '400 XAmzContentSHA256Mismatch');
  await assert.rejects(place.store.head('bucket', 'k'), { kind: 'no-such-key' });
});

/** A body of signed pieces, as older SDKs send it over plain HTTP. */
function signedChunks(pieces: readonly string[]) {
  return (seed: string, timestamp: string) => {
    const scope = `${timestamp.slice(0, 8)}/${region}/s3/aws4_request`;
    const step = (key: string | Buffer, value: string) => createHmac('sha256', key).update(value).digest();
    const key = step(step(step(step('AWS4secret', timestamp.slice(0, 8)), region), 's3'), 'aws4_request');
    const sha = (value: string) => createHash('sha256').update(value).digest('hex');
    let previous = seed;
    const framed = [...pieces, ''].map((piece) => {
      const parts = ['AWS4-HMAC-SHA256-PAYLOAD', timestamp, scope, previous, sha(''), sha(piece)];
      previous = createHmac('sha256', key).update(parts.join('\n')).digest('hex');
      return `${piece.length.toString(16)};chunk-signature=${previous}\r\n${piece}\r\n`;
    });
    return framed.join('');
  };
}

test('a body of signed pieces is accepted, and refused when a piece was changed', async () => {
  await using place = await serve();
  const headers = {
    'x-amz-content-sha256': 'STREAMING-AWS4-HMAC-SHA256-PAYLOAD',
    'x-amz-decoded-content-length': '10',
    'content-encoding': 'aws-chunked',
  };
  const send = (body: (signature: string, date: string) => string) =>
    raw(place.port, { method: 'PUT', path: '/bucket/k', headers, body });
  const good = signedChunks(['hello', 'world']);
  assert.equal((await send(good)).status, 200);
  await using object = await place.store.open('bucket', 'k');
  assert.equal((await buffer(object.stream())).toString(), 'helloworld');

  assert.equal(codeOf(await send((s, d) => good(s, d).replace('world', 'wORld'))), '403 SignatureDoesNotMatch');
  assert.equal(codeOf(await send(signedChunks(['hello']))), '400 IncompleteBody');
});

const spoiled: readonly (readonly [what: string, body: string, code: string])[] = [
  ['no size', 'xyz\r\nhello\r\n0\r\n\r\n', '400 InvalidRequest'],
  ['a size too small', '3\r\nhello\r\n0\r\n\r\n', '400 InvalidRequest'],
  ['no end', '5\r\nhello\r\n', '400 IncompleteBody'],
  ['no announced trailer', '5\r\nhello\r\n0\r\n\r\n', '400 MalformedTrailerError'],
  ['a wrong trailer', '5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n', '400 BadDigest'],
  ['an endless line', `5${'0'.repeat(5000)}`, '400 InvalidRequest'],
];
for (const [what, body, code] of spoiled) {
  test(`an aws-chunked body with ${what} is refused and nothing is stored`, async () => {
    await using place = await serve();
    const headers = {
      'x-amz-content-sha256': 'STREAMING-UNSIGNED-PAYLOAD-TRAILER',
      'x-amz-decoded-content-length': '5',
      'x-amz-trailer': 'x-amz-checksum-crc32',
    };
    assert.equal(codeOf(await raw(place.port, { method: 'PUT', path: '/bucket/k', headers, body })), code);
    await assert.rejects(place.store.head('bucket', 'k'), { kind: 'no-such-key' });
  });
}

test('what is not implemented says so instead of doing something else', async () => {
  await using place = await serve();
  const ask = (method: string, query: Record<string, string>, headers: Record<string, string> = {}) =>
    raw(place.port, { method, path: '/bucket/k', query, headers });
  assert.equal(codeOf(await ask('PUT', { tagging: '' })), '501 NotImplemented');
  assert.equal(codeOf(await ask('GET', { partNumber: '1' })), '501 NotImplemented');
  assert.equal(codeOf(await ask('GET', {}, { 'x-amz-copy-source': '/bucket/other' })), '501 NotImplemented');
  assert.equal(codeOf(await ask('POST', {})), '405 MethodNotAllowed');
});

test('without signature checking local programs need no key, web pages get nothing', async () => {
  await using place = await serve({ auth: 'off' });
  const answer = await raw(place.port, { method: 'GET', path: '/', unsigned: true });
  assert.equal(answer.status, 200);
  const headers = { origin: 'http://evil.test' };
  const page = await raw(place.port, { method: 'GET', path: '/', unsigned: true, headers });
  assert.equal(codeOf(page), '403 AccessDenied');
});
