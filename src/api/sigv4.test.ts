/** Signatures are made by the official signer and by hand, and checked over real connections. */
import assert from 'node:assert/strict';
import { createServer, request as httpRequest, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { Sha256 } from '@aws-crypto/sha256-js';
import { HttpRequest } from '@smithy/protocol-http';
import { SignatureV4 } from '@smithy/signature-v4';
import { createIdentity } from '../identity/index.ts';
import { SigningKeys } from './signing-keys.ts';
import { checkSignature, readSignature, SignatureError, type SigningRules, sha256 } from './sigv4.ts';

const now = Date.parse('2026-11-21T10:00:00Z');
const keys = { accessKeyId: 'AKID', secretAccessKey: 'secret' };
const session = { accessKeyId: 'ASIA', secretAccessKey: 'secret2', sessionToken: 'token' };
const expired = { accessKeyId: 'ASIB', secretAccessKey: 'secret3', sessionToken: 'token', expiresAt: now - 1 };
const identity = createIdentity({ account: '000000000000', rootKeys: [keys, session, expired] });
const lambda: SigningRules = {
  service: 'lambda',
  region: 'us-east-1',
  encodesPathTwice: true,
  needsExpires: false,
  maxSkewMs: 300_000,
  keys: new SigningKeys(),
};
const s3: SigningRules = { ...lambda, service: 's3', encodesPathTwice: false, needsExpires: true };

interface Sent {
  readonly method: string;
  /** As it goes over the wire. */
  readonly target: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** What the server makes of a request: 'ok', or the kind of refusal and its detail. */
async function judge(sent: Sent, rules = lambda, presigned: 'unsigned' | 'body' = 'unsigned'): Promise<string> {
  const verdict = Promise.withResolvers<string>();
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      verdict.resolve(verify(request, Buffer.concat(chunks), rules, presigned));
      response.end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const { method, target: path, headers, body } = sent;
  httpRequest({ host: '127.0.0.1', port, method, path, headers }, (response) => response.resume()).end(body);
  const result = await verdict.promise;
  await new Promise((resolve) => server.close(resolve));
  return result;
}

function verify(request: IncomingMessage, body: Buffer, rules: SigningRules, presigned: 'unsigned' | 'body'): string {
  try {
    const signed = readSignature(request, { rules, identity, now });
    const isUnsigned = signed.form === 'query' && presigned === 'unsigned';
    checkSignature(request, signed, { rules, bodyHash: isUnsigned ? 'UNSIGNED-PAYLOAD' : sha256(body) });
    return 'ok';
  } catch (error) {
    if (!(error instanceof SignatureError)) throw error;
    return 'detail' in error.refusal ? `${error.refusal.kind}: ${error.refusal.detail}` : error.refusal.kind;
  }
}

interface Signing {
  readonly credentials?: typeof keys;
  readonly at?: number;
  readonly region?: string;
  readonly service?: string;
  readonly path?: string;
  readonly query?: Readonly<Record<string, string | string[]>>;
  readonly body?: string;
}

async function sign(options: Signing = {}): Promise<Sent> {
  const { path = '/2025-09-09/microvms', query = {}, body = '{"a":1}', service = 'lambda' } = options;
  const signer = new SignatureV4({
    credentials: options.credentials ?? keys,
    region: options.region ?? 'us-east-1',
    service,
    sha256: Sha256,
    uriEscapePath: service !== 's3',
  });
  const plain = new HttpRequest({
    method: 'POST',
    hostname: '127.0.0.1',
    path,
    query: { ...query },
    headers: { host: 'lambda.test', 'content-type': 'application/json' },
    body,
  });
  const signed = await signer.sign(plain, { signingDate: new Date(options.at ?? now) });
  const pairs = Object.entries(query).flatMap(([name, value]) =>
    [value].flat().map((one) => `${encodeURIComponent(name)}=${encodeURIComponent(one)}`),
  );
  const target = pairs.length === 0 ? path : `${path}?${pairs.join('&')}`;
  return { method: 'POST', target, headers: signed.headers, body };
}

test("the official signer's request is accepted", async () => {
  assert.equal(await judge(await sign()), 'ok');
});

test('an encoded ARN in the path is signed twice encoded, and accepted', async () => {
  const arn = encodeURIComponent('arn:aws:lambda:us-east-1:000000000000:microvm-image:demo');
  assert.equal(await judge(await sign({ path: `/2025-09-09/microvm-images/${arn}/versions/1.0` })), 'ok');
});

test('repeated and unordered query parameters are accepted', async () => {
  const query = { tagKeys: ['b', 'a c', '!*'], a: '=/+', empty: '' };
  assert.equal(await judge(await sign({ query })), 'ok');
});

test('a request signed with session credentials needs its token', async () => {
  const sent = await sign({ credentials: session });
  assert.equal(await judge(sent), 'ok');
  const other = { ...sent.headers, 'x-amz-security-token': 'other' };
  assert.equal(await judge({ ...sent, headers: other }), 'bad-token');
  const { 'x-amz-security-token': _, ...without } = sent.headers;
  assert.equal(await judge({ ...sent, headers: without }), 'bad-token');
  assert.equal(await judge(await sign({ credentials: expired })), 'expired-token');
});

test('a changed body, path, query, method or header breaks the signature', async () => {
  const sent = await sign({ query: { a: '1' } });
  assert.equal(await judge({ ...sent, body: '{"a":2}' }), 'mismatch');
  assert.equal(await judge({ ...sent, target: sent.target.replace('microvms', 'microvmz') }), 'mismatch');
  assert.equal(await judge({ ...sent, target: sent.target.replace('a=1', 'a=2') }), 'mismatch');
  assert.equal(await judge({ ...sent, target: `${sent.target}&b=1` }), 'mismatch');
  assert.equal(await judge({ ...sent, method: 'PUT' }), 'mismatch');
  assert.equal(await judge({ ...sent, headers: { ...sent.headers, 'content-type': 'text/plain' } }), 'mismatch');
});

test('the wrong secret and an unknown key are told apart', async () => {
  assert.equal(await judge(await sign({ credentials: { ...keys, secretAccessKey: 'other' } })), 'mismatch');
  assert.equal(await judge(await sign({ credentials: { ...keys, accessKeyId: 'NOBODY' } })), 'unknown-key');
});

test('another service or region in the scope is refused', async () => {
  assert.equal(
    await judge(await sign({ service: 'lambda-microvms' })),
    "scope: Credential should be scoped to correct service: 'lambda'.",
  );
  assert.match(await judge(await sign({ region: 'eu-west-1' })), /^scope: .*not 'eu-west-1'; this server is us-east-1/);
});

test('clocks may differ by five minutes and no more', async () => {
  assert.equal(await judge(await sign({ at: now - 299_000 })), 'ok');
  assert.equal(await judge(await sign({ at: now + 299_000 })), 'ok');
  assert.equal(
    await judge(await sign({ at: now - 301_000 })),
    'skewed: Signature expired: 20261121T095459Z is now earlier than 20261121T095500Z (20261121T100000Z - 5 min.)',
  );
  assert.match(await judge(await sign({ at: now + 301_000 })), /^skewed: Signature not yet current: 20261121T100501Z/);
});

const mutilated: readonly (readonly [what: string, change: (header: string) => string, refusal: RegExp])[] = [
  ['no Authorization at all', () => '', /^malformed|^missing/],
  ['another algorithm', (header) => header.replace('AWS4-HMAC-SHA256', 'AWS4-HMAC-SHA1'), /^malformed/],
  ['no signature', (header) => header.replace(/Signature=\w+/, ''), /requires 'Signature'/],
  ['no credential', (header) => header.replace(/Credential=[^,]+/, ''), /requires 'Credential'/],
  ['a short credential', (header) => header.replace('/aws4_request', ''), /5 slash-delimited/],
  ['an unsigned host', (header) => header.replace('host;', ''), /'Host' must be a 'SignedHeader'/],
  ['an unsigned x-amz-date', (header) => header.replace(';x-amz-date', ''), /'x-amz-date' must be a 'SignedHeader'/],
  ['another day in the scope', (header) => header.replace('/20261121/', '/20261120/'), /20261120/],
];
for (const [what, change, refusal] of mutilated) {
  test(`a request with ${what} is refused`, async () => {
    const sent = await sign();
    const authorization = change(sent.headers.authorization ?? '');
    assert.match(await judge({ ...sent, headers: { ...sent.headers, authorization } }), refusal);
  });
}

test('a request without a signature is told so', async () => {
  assert.equal(await judge({ method: 'GET', target: '/', headers: {}, body: '' }), 'missing');
});

test('a presigned URL works until its time is over', async () => {
  const signer = new SignatureV4({
    credentials: keys,
    region: 'us-east-1',
    service: 's3',
    sha256: Sha256,
    uriEscapePath: false,
  });
  const presign = async (at: number) => {
    const headers = { host: 's3.test', 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD' };
    const plain = new HttpRequest({ method: 'GET', path: '/bucket/a%20b', headers });
    const url = await signer.presign(plain, { signingDate: new Date(at), expiresIn: 60 });
    const query = Object.entries(url.query ?? {}).map(
      ([name, value]) => `${name}=${encodeURIComponent(String(value))}`,
    );
    return { method: 'GET', target: `${url.path}?${query.join('&')}`, headers: { host: 's3.test' }, body: '' };
  };
  const sent = await presign(now - 59_000);
  assert.equal(await judge(sent, s3), 'ok');
  assert.equal(await judge({ ...sent, target: sent.target.replace('a%20b', 'other') }, s3), 'mismatch');
  assert.equal(await judge(await presign(now - 61_000), s3), 'expired-url');
});

test('an operation can be presigned too, over the hash of its body, and then lasts as long as a header without X-Amz-Expires', async () => {
  const presigned = async (at: number, expires: boolean) => {
    const signer = new SignatureV4({ credentials: keys, region: 'us-east-1', service: 'lambda', sha256: Sha256 });
    const path = `/2025-09-09/microvm-images/${encodeURIComponent('arn:aws:lambda:us-east-1:000000000000:microvm-image:x')}`;
    const plain = new HttpRequest({ method: 'GET', path, headers: { host: 'lambda.test' } });
    const { query = {} } = await signer.presign(plain, { signingDate: new Date(at), expiresIn: 60 });
    const pairs = Object.entries(query).filter(([name]) => expires || name !== 'X-Amz-Expires');
    const text = pairs.map(([name, value]) => `${name}=${encodeURIComponent(String(value))}`).join('&');
    return { method: 'GET', target: `${path}?${text}`, headers: { host: 'lambda.test' }, body: '' };
  };
  const overBody: SigningRules = { ...lambda };
  assert.equal(await judge(await presigned(now - 59_000, true), overBody, 'body'), 'ok');
  assert.equal(await judge(await presigned(now - 61_000, true), overBody, 'body'), 'expired-url');
  // Taking a parameter away is a change of what was signed.
  assert.equal(await judge(await presigned(now - 1000, false), overBody, 'body'), 'mismatch');
  assert.match(await judge(await presigned(now - 301_000, false), overBody, 'body'), /^skewed: Signature expired/);
  assert.match(await judge(await presigned(now, false), s3), /X-Amz-Expires is missing/);
});

test('a signature in two places is refused', async () => {
  const sent = await sign();
  assert.match(await judge({ ...sent, target: `${sent.target}?X-Amz-Signature=x` }), /^malformed: only one signature/);
});

test('the host is signed with its port', async () => {
  const sent = await sign();
  assert.equal(await judge({ ...sent, headers: { ...sent.headers, host: 'lambda.test:443' } }), 'mismatch');
});

test('a signed header that did not come does not count as empty', async () => {
  const sent = await sign();
  const { 'content-type': _, ...without } = sent.headers;
  assert.equal(await judge({ ...sent, headers: without }), 'mismatch');
});

test('a query that cannot be decoded is refused as such', async () => {
  const sent = await sign();
  assert.equal(
    await judge({ ...sent, target: `${sent.target}?a=%zz` }),
    'malformed: the query is not properly percent-encoded',
  );
});
