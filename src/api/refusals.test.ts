/** Requests no official client sends, byte by byte: what each is answered, before and after the signature is checked. */
import assert from 'node:assert/strict';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import { after, before, test } from 'node:test';
import { Sha256 } from '@aws-crypto/sha256-js';
import { HttpRequest } from '@smithy/protocol-http';
import { SignatureV4 } from '@smithy/signature-v4';
import { type ApiBench, createApiBench, credentials, region } from '../../test/support/api-bench.ts';

let bench: ApiBench;
before(async () => {
  bench = await createApiBench();
});
after(() => bench[Symbol.asyncDispose]());

interface Sent {
  readonly method?: string;
  readonly path?: string;
  readonly query?: Readonly<Record<string, string | string[]>>;
  /** As it goes over the wire, where it differs from what is signed. */
  readonly target?: string;
  readonly body?: string | Buffer;
  readonly headers?: Readonly<Record<string, string>>;
}

async function ask(sent: Sent): Promise<{ status: number | undefined; type: unknown; body: unknown }> {
  const { method = 'GET', path = '/2025-09-09/microvms', query = {}, body } = sent;
  const signer = new SignatureV4({ credentials, region, service: 'lambda', sha256: Sha256 });
  const headers = { host: `127.0.0.1:${bench.apiPort}`, ...sent.headers };
  const signed = await signer.sign(new HttpRequest({ method, path, query, headers, body }));
  const pairs = Object.entries(query).flatMap(([name, value]) =>
    [value].flat().map((one) => `${name}=${encodeURIComponent(one)}`),
  );
  const target = sent.target ?? (pairs.length === 0 ? path : `${path}?${pairs.join('&')}`);
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    httpRequest({ host: '127.0.0.1', port: bench.apiPort, method, path: target, headers: signed.headers }, resolve)
      .on('error', reject)
      .end(body);
  });
  assert.equal(response.headers['content-type'], 'application/json');
  assert.match(String(response.headers['x-amzn-requestid']), /^[0-9a-f-]{36}$/);
  return {
    status: response.statusCode,
    type: response.headers['x-amzn-errortype'],
    body: JSON.parse(await text(response)) as unknown,
  };
}

const serialization = (message: string) => ({
  status: 400,
  type: 'SerializationException',
  body: { Message: message },
});
const run = (body: string | Buffer): Sent => ({
  method: 'POST',
  body,
  headers: { 'content-type': 'application/json' },
});

const cases: readonly (readonly [what: string, sent: Sent, answer: object])[] = [
  [
    'an unknown path',
    { path: '/2025-09-09/functions' },
    {
      status: 404,
      type: 'UnknownOperationException',
      body: { message: 'No operation is bound to GET /2025-09-09/functions' },
    },
  ],
  [
    'a method the path does not have',
    { method: 'PATCH' },
    {
      status: 404,
      type: 'UnknownOperationException',
      body: { message: 'No operation is bound to PATCH /2025-09-09/microvms' },
    },
  ],
  [
    'a label that is no percent-encoding',
    { path: '/2025-09-09/microvms/%zz' },
    serialization('The path is not properly percent-encoded.'),
  ],
  [
    'a label that is no UTF-8',
    { path: '/2025-09-09/microvms/%ff%fe' },
    serialization('The path is not properly percent-encoded.'),
  ],
  [
    "a cursor with its '=' as it is",
    { query: { nextToken: 'abc==' }, target: '/2025-09-09/microvms?nextToken=abc==' },
    { status: 400, type: 'SerializationException', body: { message: null } },
  ],
  [
    'a body that says it is a form',
    { ...run('{}'), headers: { 'content-type': 'application/x-www-form-urlencoded' } },
    {
      status: 415,
      type: 'UnsupportedMediaTypeException',
      body: { message: 'The request body must be application/json, not application/x-www-form-urlencoded.' },
    },
  ],
  [
    'half a body',
    run('{"imageIdentifier":'),
    serialization('The request body is not valid JSON: Unexpected end of JSON input'),
  ],
  [
    'a body that is no UTF-8',
    run(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d])),
    serialization('The request body is not valid JSON: it is not UTF-8'),
  ],
  ['a body that is a list', run('[]'), serialization('Unexpected content: the request body must be a JSON object.')],
  [
    'a number for a string',
    run('{"imageIdentifier":1}'),
    serialization('NUMBER_VALUE can not be converted to a String'),
  ],
  [
    'a list for a string',
    run('{"imageIdentifier":[]}'),
    serialization('Start of structure or list found where not expected.'),
  ],
  [
    'a string for a number',
    run('{"imageIdentifier":"x","maximumDurationInSeconds":"60"}'),
    serialization('STRING_VALUE can not be converted to an Integer'),
  ],
  [
    'a fraction for a number',
    run('{"imageIdentifier":"x","maximumDurationInSeconds":1.5}'),
    serialization('NUMBER_VALUE can not be converted to an Integer'),
  ],
  [
    'a string for a list',
    run('{"imageIdentifier":"x","ingressNetworkConnectors":"x"}'),
    serialization('Expected list or null'),
  ],
  ['a string for a structure', run('{"imageIdentifier":"x","idlePolicy":"x"}'), serialization('Expected null')],
  [
    'a boolean for a union member',
    run('{"imageIdentifier":"x","logging":{"disabled":true}}'),
    serialization('Expected null'),
  ],
  [
    'a union with a member it does not have',
    run('{"imageIdentifier":"x","logging":{"stdout":{}}}'),
    serialization('Exactly one of disabled, cloudWatch must be set'),
  ],
  [
    'a union with two members',
    run('{"imageIdentifier":"x","logging":{"disabled":{},"cloudWatch":{}}}'),
    serialization('Exactly one of disabled, cloudWatch must be set'),
  ],
  [
    'a page size that is no number',
    { query: { maxResults: 'ten' } },
    serialization("'ten' can not be converted to an Integer"),
  ],
  [
    'a page size too large',
    { query: { maxResults: '51' } },
    {
      status: 400,
      type: 'ValidationException',
      body: {
        message:
          "1 validation error detected: Value '51' at 'maxResults' failed to satisfy constraint: Member must have value less than or equal to 50",
      },
    },
  ],
  [
    'several broken constraints, of which a missing member counts as one',
    run('{"maximumDurationInSeconds":0,"runHookPayload":"","clientToken":""}'),
    {
      status: 400,
      type: 'ValidationException',
      body: {
        message: [
          "3 validation errors detected: Value null at 'imageIdentifier' failed to satisfy constraint: Member must not be null",
          "Value '0' at 'maximumDurationInSeconds' failed to satisfy constraint: Member must have value greater than or equal to 1",
          "Value '' at 'clientToken' failed to satisfy constraint: Member must have length greater than or equal to 1",
        ].join('; '),
      },
    },
  ],
];
for (const [what, sent, answer] of cases) {
  test(`${what} is refused`, async () => assert.deepEqual(await ask(sent), answer));
}

test('a made-up cursor is refused by lists of one page too', async () => {
  const answer = await ask({ path: '/2025-09-09/managed-microvm-images', query: { nextToken: 'x' } });
  assert.deepEqual([answer.status, answer.type], [400, 'ValidationException']);
});

test('of a key that stands twice the last value counts', async () => {
  const answer = await ask(run('{"imageIdentifier":1,"imageIdentifier":"demo"}'));
  assert.equal(answer.type, 'ValidationException');
});

test('a refusal of a broken body does not repeat the body', async () => {
  const { body } = await ask(run('{"imageIdentifier":"a secret","x":secret}'));
  assert.doesNotMatch(JSON.stringify(body), /secret/);
});

test('a null body, an absent one and an empty object are the same', async () => {
  const answers = await Promise.all([ask(run('null')), ask({ method: 'POST' }), ask(run('{}'))]);
  for (const answer of answers) assert.deepEqual(answer, answers[0]);
  assert.equal(answers[0]?.type, 'ValidationException');
});
