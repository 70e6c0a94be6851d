/**
 * The published Signature Version 4 examples: AWS's test suite for signers (its case names and signatures; the requests are
 * written here by what each case is about) and the worked examples of the S3 documentation. Sent byte by byte.
 *
 * Left out are cases that Node's HTTP parser refuses before any signature is looked at: a raw space or raw UTF-8 in the path,
 * a header folded over two lines.
 */
import assert from 'node:assert/strict';
import { createServer, type IncomingMessage } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { test } from 'node:test';
import { createIdentity } from '../identity/index.ts';
import { SigningKeys } from './signing-keys.ts';
import { checkSignature, readSignature, SignatureError, type SigningRules, sha256 } from './sigv4.ts';

const suite = { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY' };
const sessionToken =
  'AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==';
const rules: SigningRules = {
  service: 'service',
  region: 'us-east-1',
  encodesPathTwice: true,
  needsExpires: false,
  maxSkewMs: 300_000,
  keys: new SigningKeys(),
};
const signedAt = '20150830T123600Z';

interface Vector {
  readonly name: string;
  readonly line?: string;
  /** After `Host` and before `X-Amz-Date`, as they go over the wire. */
  readonly headers?: readonly string[];
  readonly signed?: string;
  readonly body?: string;
  readonly session?: boolean;
  readonly signature: string;
}

const vanilla = '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31';
const unreserved = '-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const vectors: readonly Vector[] = [
  { name: 'get-vanilla', signature: vanilla },
  { name: 'get-vanilla-query', line: 'GET /', signature: vanilla },
  {
    name: 'get-vanilla-empty-query-key',
    line: 'GET /?Param1=value1',
    signature: 'a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb',
  },
  {
    name: 'get-vanilla-query-order-key-case',
    line: 'GET /?Param2=value2&Param1=value1',
    signature: 'b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500',
  },
  {
    name: 'get-vanilla-query-unreserved',
    line: `GET /?${unreserved}=${unreserved}`,
    signature: '9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197',
  },
  {
    name: 'get-vanilla-utf8-query',
    line: 'GET /?%E1%88%B4=bar',
    signature: '2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04',
  },
  {
    name: 'get-unreserved',
    line: `GET /${unreserved}`,
    signature: '07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f',
  },
  { name: 'get-slash', line: 'GET //', signature: vanilla },
  { name: 'get-slash-dot-slash', line: 'GET /./', signature: vanilla },
  {
    name: 'get-slash-pointless-dot',
    line: 'GET /./example',
    signature: 'ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5',
  },
  {
    name: 'get-slashes',
    line: 'GET //example//',
    signature: '9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84',
  },
  { name: 'get-relative', line: 'GET /example/..', signature: vanilla },
  { name: 'get-relative-relative', line: 'GET /example1/example2/../..', signature: vanilla },
  {
    name: 'get-header-key-duplicate',
    headers: ['My-Header1: value2', 'My-Header1: value2', 'My-Header1: value1'],
    signed: 'host;my-header1;x-amz-date',
    signature: 'c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea',
  },
  {
    name: 'get-header-value-order',
    headers: ['My-Header1: value4', 'My-Header1: value1', 'My-Header1: value3', 'My-Header1: value2'],
    signed: 'host;my-header1;x-amz-date',
    signature: '08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01',
  },
  {
    name: 'get-header-value-trim',
    headers: ['My-Header1:  value1', 'My-Header2:  "a   b   c"'],
    signed: 'host;my-header1;my-header2;x-amz-date',
    signature: 'acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736',
  },
  {
    name: 'post-vanilla',
    line: 'POST /',
    signature: '5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b',
  },
  {
    name: 'post-vanilla-query',
    line: 'POST /?Param1=value1',
    signature: '28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11',
  },
  {
    name: 'post-header-key-sort',
    line: 'POST /',
    headers: ['My-Header1: value1'],
    signed: 'host;my-header1;x-amz-date',
    signature: 'c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c',
  },
  {
    name: 'post-header-value-case',
    line: 'POST /',
    headers: ['My-Header1: VALUE1'],
    signed: 'host;my-header1;x-amz-date',
    signature: 'cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d',
  },
  {
    name: 'post-sts-header-before, the session token signed',
    line: 'POST /',
    headers: [`X-Amz-Security-Token: ${sessionToken}`],
    signed: 'host;x-amz-date;x-amz-security-token',
    session: true,
    signature: '85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead',
  },
  {
    name: 'post-x-www-form-urlencoded',
    line: 'POST /',
    headers: ['Content-Type: application/x-www-form-urlencoded'],
    signed: 'content-type;host;x-amz-date',
    body: 'Param1=value1',
    signature: 'ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a',
  },
  {
    name: 'post-x-www-form-urlencoded-parameters',
    line: 'POST /',
    headers: ['Content-Type: application/x-www-form-urlencoded; charset=utf8'],
    signed: 'content-type;host;x-amz-date',
    body: 'Param1=value1',
    signature: '1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe',
  },
];

for (const {
  name,
  line = 'GET /',
  headers = [],
  signed = 'host;x-amz-date',
  body = '',
  session,
  signature,
} of vectors) {
  test(`test suite: ${name}`, async () => {
    const authorization = `AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=${signed}, Signature=`;
    const send = (withSignature: string) =>
      judge(
        [
          `${line} HTTP/1.1`,
          'Host:example.amazonaws.com',
          ...headers,
          `X-Amz-Date:${signedAt}`,
          `Authorization: ${authorization}${withSignature}`,
          ...(body === '' ? [] : [`Content-Length: ${body.length}`]),
        ],
        body,
        { rules, keys: session === true ? { ...suite, sessionToken } : suite, at: '2015-08-30T12:36:00Z' },
      );
    assert.equal(await send(signature), 'ok');
    assert.equal(await send(signature.replace(/.$/, (last) => (last === '0' ? '1' : '0'))), 'mismatch');
  });
}

const s3Keys = { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secretAccessKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY' };
const s3Rules: SigningRules = { ...rules, service: 's3', encodesPathTwice: false, needsExpires: true };
const empty = sha256('');
const s3Examples: readonly (Vector & { readonly hash: string })[] = [
  {
    name: 'GET object',
    line: 'GET /test.txt',
    headers: ['Range: bytes=0-9'],
    signed: 'host;range;x-amz-content-sha256;x-amz-date',
    hash: empty,
    signature: 'f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41',
  },
  {
    name: 'PUT object',
    line: 'PUT /test%24file.text',
    headers: ['Date: Fri, 24 May 2013 00:00:00 GMT', 'x-amz-storage-class: REDUCED_REDUNDANCY'],
    signed: 'date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class',
    body: 'Welcome to Amazon S3.',
    hash: '44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072',
    signature: '98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd',
  },
  {
    name: 'GET bucket lifecycle',
    line: 'GET /?lifecycle',
    signed: 'host;x-amz-content-sha256;x-amz-date',
    hash: empty,
    signature: 'fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543',
  },
  {
    name: 'GET bucket',
    line: 'GET /?max-keys=2&prefix=J',
    signed: 'host;x-amz-content-sha256;x-amz-date',
    hash: empty,
    signature: '34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7',
  },
];
for (const { name, line, headers = [], signed, body = '', hash, signature } of s3Examples) {
  test(`S3 documentation: ${name}`, async () => {
    const authorization = `AWS4-HMAC-SHA256 Credential=${s3Keys.accessKeyId}/20130524/us-east-1/s3/aws4_request,SignedHeaders=${signed},Signature=${signature}`;
    const lines = [
      `${line} HTTP/1.1`,
      'Host: examplebucket.s3.amazonaws.com',
      ...headers,
      `x-amz-content-sha256:${hash}`,
      'x-amz-date: 20130524T000000Z',
      `Authorization: ${authorization}`,
      ...(body === '' ? [] : [`Content-Length: ${body.length}`]),
    ];
    assert.equal(await judge(lines, body, { rules: s3Rules, keys: s3Keys, at: '2013-05-24T00:00:00Z' }), 'ok');
  });
}

test('S3 documentation: presigned GET, good for a day', async () => {
  const parameters = [
    'X-Amz-Algorithm=AWS4-HMAC-SHA256',
    `X-Amz-Credential=${s3Keys.accessKeyId}%2F20130524%2Fus-east-1%2Fs3%2Faws4_request`,
    'X-Amz-Date=20130524T000000Z',
    'X-Amz-Expires=86400',
    'X-Amz-SignedHeaders=host',
    'X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404',
  ];
  const lines = [`GET /test.txt?${parameters.join('&')} HTTP/1.1`, 'Host: examplebucket.s3.amazonaws.com'];
  const options = { rules: s3Rules, keys: s3Keys, unsigned: true };
  assert.equal(await judge(lines, '', { ...options, at: '2013-05-24T23:59:00Z' }), 'ok');
  assert.equal(await judge(lines, '', { ...options, at: '2013-05-25T00:01:00Z' }), 'expired-url');
});

interface Judging {
  readonly rules: SigningRules;
  readonly keys: { accessKeyId: string; secretAccessKey: string; sessionToken?: string };
  readonly at: string;
  readonly unsigned?: boolean;
}

/** Sends these lines as they are and tells what the server makes of them. */
async function judge(lines: readonly string[], body: string, options: Judging): Promise<string> {
  const verdict = Promise.withResolvers<string>();
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      verdict.resolve(verify(request, Buffer.concat(chunks), options));
      response.end();
    });
  });
  server.on('clientError', (error, socket) => {
    verdict.resolve(`not HTTP: ${error.message}`);
    socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
  socket.on('error', () => {});
  socket.end(`${[...lines, 'Connection: close'].join('\r\n')}\r\n\r\n${body}`);
  const result = await verdict.promise;
  socket.destroy();
  await new Promise((resolve) => server.close(resolve));
  return result;
}

function verify(request: IncomingMessage, body: Buffer, { rules, keys, at, unsigned }: Judging): string {
  const identity = createIdentity({ account: '000000000000', rootKeys: [keys] });
  try {
    const signed = readSignature(request, { rules, identity, now: Date.parse(at) });
    checkSignature(request, signed, { rules, bodyHash: unsigned === true ? 'UNSIGNED-PAYLOAD' : sha256(body) });
    return 'ok';
  } catch (error) {
    if (!(error instanceof SignatureError)) throw error;
    return 'detail' in error.refusal ? `${error.refusal.kind}: ${error.refusal.detail}` : error.refusal.kind;
  }
}
