import assert from 'node:assert/strict';
import { test } from 'node:test';
import { operations as connectorOperations } from '../../spec/lambda-core.ts';
import { operations } from '../../spec/lambda-microvms.ts';
import type { Operation } from '../../spec/shape.ts';
import { type RawInput, readInput } from './read-input.ts';
import { WireError } from './wire-error.ts';

type Parts = Omit<Partial<RawInput>, 'body'> & { body?: unknown };

function read<const O extends Operation>(operation: O, { body, ...raw }: Parts) {
  const bytes = body instanceof Buffer ? body : Buffer.from(body === undefined ? '' : JSON.stringify(body));
  return readInput(operation, { labels: {}, query: [], ...raw, body: bytes });
}

function refusal(operation: Operation, raw: Parts): { type: string; status: number; body: unknown } {
  try {
    read(operation, raw);
  } catch (error) {
    assert.ok(error instanceof WireError, String(error));
    return { type: error.type, status: error.status, body: error.body };
  }
  return assert.fail('it was read');
}

/** The one sentence of a ValidationException. */
function complaint(operation: Operation, raw: Parts): string {
  const { type, status, body } = refusal(operation, raw);
  assert.deepEqual([type, status], ['ValidationException', 400]);
  return (body as { message: string }).message;
}

const imageArn = 'arn:aws:lambda:us-east-1:000000000000:microvm-image:demo';
const create = {
  name: 'demo',
  baseImageArn: 'arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1',
  buildRoleArn: 'arn:aws:iam::000000000000:role/build',
  codeArtifact: { uri: 's3://bucket/key.zip' },
};
const { CreateMicrovmImage, RunMicrovm, ListMicrovmImages, CreateMicrovmAuthToken, UntagResource } = operations;

test('a complete input is read with labels, query and body', () => {
  assert.deepEqual(read(CreateMicrovmImage, { body: create }), create);
  assert.deepEqual(read(ListMicrovmImages, { query: [['maxResults', '7']] }), { maxResults: 7 });
  assert.deepEqual(
    read(CreateMicrovmAuthToken, {
      labels: { microvmIdentifier: 'microvm-1' },
      body: { expirationInMinutes: 5, allowedPorts: [{ port: 8080 }, { allPorts: {} }] },
    }),
    { microvmIdentifier: 'microvm-1', expirationInMinutes: 5, allowedPorts: [{ port: 8080 }, { allPorts: {} }] },
  );
  const untag = { labels: { Resource: imageArn }, query: [['tagKeys', 'a'] as const, ['tagKeys', 'b c'] as const] };
  assert.deepEqual(read(UntagResource, untag), { Resource: imageArn, TagKeys: ['a', 'b c'] });
});

test('null members count as absent and unknown members are ignored', () => {
  const body = { imageIdentifier: imageArn, imageVersion: null, idlePolicy: null, surprise: [1, 2] };
  assert.deepEqual(read(RunMicrovm, { body }), { imageIdentifier: imageArn });
});

test('names that mean something to JavaScript are ordinary members and keys', () => {
  const body = Buffer.from(
    JSON.stringify({ ...create, environmentVariables: {} }).replace(
      '"environmentVariables":{}',
      '"environmentVariables":{"__proto__":"x","constructor":"y"}',
    ),
  );
  const input = read(CreateMicrovmImage, { body });
  assert.deepEqual(Object.entries(input.environmentVariables ?? {}), [
    ['__proto__', 'x'],
    ['constructor', 'y'],
  ]);
  assert.match(complaint(RunMicrovm, { body: {} }), /'imageIdentifier'/);
});

test('absent required members are reported together in the recorded order', () => {
  assert.equal(
    complaint(CreateMicrovmImage, { body: { name: 'demo' } }),
    "3 validation errors detected: Value null at 'baseImageArn' failed to satisfy constraint: Member must not be null; " +
      "Value null at 'codeArtifact' failed to satisfy constraint: Member must not be null; " +
      "Value null at 'buildRoleArn' failed to satisfy constraint: Member must not be null",
  );
});

const broken: readonly (readonly [body: object, message: string])[] = [
  [
    { name: 'bad name' },
    "1 validation error detected: Value 'bad name' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9-_]+",
  ],
  [
    { name: 'n'.repeat(65) },
    `1 validation error detected: Value '${'n'.repeat(65)}' at 'name' failed to satisfy constraint: Member must have length less than or equal to 64`,
  ],
  [
    { resources: [{ minimumMemoryInMiB: 512 }, { minimumMemoryInMiB: 512 }] },
    '1 validation error detected: Value \'[{"minimumMemoryInMiB":512}, {"minimumMemoryInMiB":512}]\' at \'resources\' failed to satisfy constraint: Member must have length less than or equal to 1',
  ],
  [
    { resources: [{}] },
    "1 validation error detected: Value null at 'resources.1.member.minimumMemoryInMiB' failed to satisfy constraint: Member must not be null",
  ],
  [
    { egressNetworkConnectors: ['a', 'b'] },
    "1 validation error detected: Value '[a, b]' at 'egressNetworkConnectors' failed to satisfy constraint: Member must have length less than or equal to 1",
  ],
  [
    { additionalOsCapabilities: ['SYS_ADMIN'] },
    "1 validation error detected: Value '[SYS_ADMIN]' at 'additionalOsCapabilities' failed to satisfy constraint: Member must satisfy constraint: [Member must satisfy enum value set: [ALL]]",
  ],
  [
    { hooks: { port: 0 } },
    "1 validation error detected: Value '0' at 'hooks.port' failed to satisfy constraint: Member must have value greater than or equal to 1",
  ],
  [
    { hooks: { microvmHooks: { run: 'ON' } } },
    "1 validation error detected: Value 'ON' at 'hooks.microvmHooks.run' failed to satisfy constraint: Member must satisfy enum value set: [DISABLED, ENABLED]",
  ],
  [
    { environmentVariables: { KEY: 'secret'.repeat(1000) } },
    "1 validation error detected: Value at 'environmentVariables' failed to satisfy constraint: Map value must satisfy constraint: [Member must have length less than or equal to 4096, Member must have length greater than or equal to 0]",
  ],
];
for (const [change, message] of broken) {
  test(`CreateMicrovmImage with ${JSON.stringify(change).slice(0, 60)} is refused in the service's words`, () => {
    assert.equal(complaint(CreateMicrovmImage, { body: { ...create, ...change } }), message);
  });
}

test('a sensitive value never shows', () => {
  assert.equal(
    complaint(RunMicrovm, { body: { imageIdentifier: imageArn, runHookPayload: 's'.repeat(4097) } }),
    "1 validation error detected: Value at 'runHookPayload' failed to satisfy constraint: Member must have length less than or equal to 4096",
  );
});

test('paths are in camel case for connectors too', () => {
  const body = { Name: 'n', Configuration: { VpcEgressConfiguration: { SubnetIds: [] } } };
  assert.equal(
    complaint(connectorOperations.CreateNetworkConnector, { body }),
    "1 validation error detected: Value '[]' at 'configuration.vpcEgressConfiguration.subnetIds' failed to satisfy constraint: Member must have length greater than or equal to 1",
  );
});

const unreadable: readonly (readonly [operation: Operation, raw: Parts, message: RegExp])[] = [
  [RunMicrovm, { body: Buffer.from('{"imageIdentifier":') }, /not valid JSON/],
  [RunMicrovm, { body: Buffer.from([0x22, 0xff, 0x22]) }, /not UTF-8/],
  [RunMicrovm, { body: [] }, /must be a JSON object/],
  [RunMicrovm, { body: 'text' }, /must be a JSON object/],
  [RunMicrovm, { body: { imageIdentifier: 7 } }, /NUMBER_VALUE can not be converted to a String/],
  [RunMicrovm, { body: { maximumDurationInSeconds: '7' } }, /STRING_VALUE can not be converted to an Integer/],
  [RunMicrovm, { body: { maximumDurationInSeconds: 1.5 } }, /NUMBER_VALUE can not be converted to an Integer/],
  [RunMicrovm, { body: { idlePolicy: { autoResumeEnabled: 'yes' } } }, /can not be converted to a Boolean/],
  [RunMicrovm, { body: { ingressNetworkConnectors: 'x' } }, /^Expected list or null$/],
  [RunMicrovm, { body: { idlePolicy: [] } }, /Start of list/],
  [RunMicrovm, { body: { logging: { disabled: {}, cloudWatch: {} } } }, /Exactly one of disabled, cloudWatch/],
  [CreateMicrovmAuthToken, { body: { allowedPorts: [{ allPorts: true }] } }, /^Expected null$/],
  [CreateMicrovmAuthToken, { body: { allowedPorts: [{}] } }, /Exactly one of port, range, allPorts/],
  [ListMicrovmImages, { query: [['maxResults', 'many']] }, /can not be converted to an Integer/],
];
for (const [operation, raw, message] of unreadable) {
  test(`content of the wrong type is a SerializationException with a capital Message: ${message}`, () => {
    const { type, status, body } = refusal(operation, raw);
    assert.deepEqual([type, status], ['SerializationException', 400]);
    assert.match((body as { Message: string }).Message, message);
  });
}
