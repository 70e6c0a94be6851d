/** The wire over the real rooms: by the official SDK, and by hand where exact bytes or refused requests matter. */
import assert from 'node:assert/strict';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { json, text } from 'node:stream/consumers';
import { test } from 'node:test';
import { Sha256 } from '@aws-crypto/sha256-js';
import {
  CreateMicrovmAuthTokenCommand,
  CreateMicrovmImageCommand,
  GetMicrovmCommand,
  GetMicrovmImageBuildCommand,
  GetMicrovmImageCommand,
  GetMicrovmImageVersionCommand,
  ListManagedMicrovmImagesCommand,
  ListManagedMicrovmImageVersionsCommand,
  ListMicrovmImageBuildsCommand,
  ListMicrovmImagesCommand,
  ListMicrovmImageVersionsCommand,
  ListMicrovmsCommand,
  ResumeMicrovmCommand,
  RunMicrovmCommand,
  SuspendMicrovmCommand,
  TerminateMicrovmCommand,
} from '@aws-sdk/client-lambda-microvms';
import { HttpRequest } from '@smithy/protocol-http';
import { SignatureV4 } from '@smithy/signature-v4';
import {
  type ApiBench,
  account,
  baseImageArn,
  buildRoleArn,
  codeArtifact,
  createApiBench,
  credentials,
  region,
} from '../../test/support/api-bench.ts';

const newImage = { name: 'demo', baseImageArn, buildRoleArn, codeArtifact };
const imageArn = `arn:aws:lambda:${region}:${account}:microvm-image:demo`;
const unknownId = 'microvm-00000000-0000-0000-0000-000000000000';

/** Creates the image and follows its build log to the end, which comes after the outcome was written. */
async function withImage(bench: ApiBench): Promise<void> {
  await bench.sdk.send(new CreateMicrovmImageCommand(newImage));
  for await (const _ of bench.images.buildLog(imageArn, '1.0', { follow: true })) {
    // Only its end matters.
  }
}

async function withMicrovm(bench: ApiBench): Promise<string> {
  await withImage(bench);
  const { microvmId = '' } = await bench.sdk.send(new RunMicrovmCommand({ imageIdentifier: imageArn }));
  await bench.microvms.wake(microvmId, {});
  return microvmId;
}

interface RawRequest {
  readonly method?: string;
  readonly path?: string;
  readonly body?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly unsigned?: boolean;
}

async function ask(bench: ApiBench, options: RawRequest): Promise<IncomingMessage> {
  const { method = 'GET', path = '/2025-09-09/microvms', body } = options;
  const signer = new SignatureV4({ credentials, region, service: 'lambda', sha256: Sha256 });
  const headers = { host: `127.0.0.1:${bench.apiPort}`, ...options.headers };
  const plain = new HttpRequest({ method, path, headers, body });
  const signed = options.unsigned === true ? plain : await signer.sign(plain);
  return await new Promise((resolve, reject) => {
    httpRequest({ host: '127.0.0.1', port: bench.apiPort, method, path, headers: signed.headers }, resolve)
      .on('error', reject)
      .end(body);
  });
}

async function refusal(bench: ApiBench, options: RawRequest) {
  const response = await ask(bench, options);
  assert.match(String(response.headers['x-amzn-requestid']), /^[0-9a-f-]{36}$/);
  assert.equal(response.headers['content-type'], 'application/json');
  return { status: response.statusCode, type: response.headers['x-amzn-errortype'], body: await json(response) };
}

test('an image is created, built and read back through the SDK', async () => {
  await using bench = await createApiBench();
  const created = await bench.sdk.send(new CreateMicrovmImageCommand({ ...newImage, tags: { team: 'a b' } }));
  assert.deepEqual(
    [created.imageArn, created.imageVersion, created.state, created.$metadata.httpStatusCode],
    [imageArn, '1.0', 'CREATING', 201],
  );
  assert.ok(created.createdAt instanceof Date);
  assert.deepEqual(created.resources, [{ minimumMemoryInMiB: 2048 }]);
  for await (const _ of bench.images.buildLog(imageArn, '1.0', { follow: true })) {
    // Only its end matters.
  }
  const onVersion = { imageIdentifier: imageArn, imageVersion: '1.0' };
  const image = await bench.sdk.send(new GetMicrovmImageCommand({ imageIdentifier: imageArn }));
  assert.deepEqual([image.state, image.latestActiveImageVersion, image.tags], ['CREATED', '1.0', { team: 'a b' }]);
  const version = await bench.sdk.send(new GetMicrovmImageVersionCommand(onVersion));
  assert.deepEqual([version.state, version.status, version.codeArtifact], ['SUCCESSFUL', 'ACTIVE', codeArtifact]);
  const versions = await bench.sdk.send(new ListMicrovmImageVersionsCommand({ imageIdentifier: imageArn }));
  assert.deepEqual(
    versions.items?.map((item) => item.imageVersion),
    ['1.0'],
  );
  const { items: builds = [] } = await bench.sdk.send(new ListMicrovmImageBuildsCommand(onVersion));
  assert.deepEqual(
    builds.map((build) => build.chipsetGeneration),
    ['4', '3'],
  );
  const buildId = builds[0]?.buildId;
  const build = await bench.sdk.send(new GetMicrovmImageBuildCommand({ ...onVersion, buildId }));
  assert.deepEqual([build.buildState, build.architecture], ['SUCCESSFUL', 'ARM_64']);
  const { items: images } = await bench.sdk.send(new ListMicrovmImagesCommand({ nameFilter: 'em', maxResults: 5 }));
  assert.deepEqual(
    images?.map((item) => item.name),
    ['demo'],
  );
});

test('managed images and their versions are listed', async () => {
  await using bench = await createApiBench();
  const { items: images } = await bench.sdk.send(new ListManagedMicrovmImagesCommand());
  assert.deepEqual(
    images?.map((item) => item.imageArn),
    [baseImageArn],
  );
  const { items: versions = [] } = await bench.sdk.send(
    new ListManagedMicrovmImageVersionsCommand({ imageIdentifier: baseImageArn }),
  );
  assert.ok(versions.length > 0 && versions.every((item) => item.status === 'AVAILABLE'));
});

test('a microVM is run, read, suspended, resumed and terminated through the SDK', async () => {
  await using bench = await createApiBench();
  await withImage(bench);
  const run = await bench.sdk.send(new RunMicrovmCommand({ imageIdentifier: imageArn }));
  const { microvmId: microvmIdentifier } = run;
  assert.deepEqual([run.state, run.imageVersion, run.maximumDurationInSeconds], ['PENDING', '1.0', 28800]);
  await bench.microvms.wake(microvmIdentifier ?? '', {});
  const on = { microvmIdentifier };
  assert.equal((await bench.sdk.send(new GetMicrovmCommand(on))).state, 'RUNNING');
  const { items } = await bench.sdk.send(new ListMicrovmsCommand({ imageIdentifier: imageArn }));
  assert.deepEqual(
    items?.map((item) => item.microvmId),
    [microvmIdentifier],
  );
  const { authToken } = await bench.sdk.send(
    new CreateMicrovmAuthTokenCommand({ ...on, expirationInMinutes: 5, allowedPorts: [{ allPorts: {} }] }),
  );
  assert.deepEqual(Object.keys(authToken ?? {}), ['X-aws-proxy-auth']);
  await bench.sdk.send(new SuspendMicrovmCommand(on));
  await bench.sdk.send(new ResumeMicrovmCommand(on));
  await bench.sdk.send(new TerminateMicrovmCommand(on));
  await bench.sdk.send(new TerminateMicrovmCommand(on));
});

test('answers carry the recorded members, nulls and epoch seconds included', async () => {
  await using bench = await createApiBench();
  const body = JSON.stringify(newImage);
  const created = await ask(bench, { method: 'POST', path: '/2025-09-09/microvm-images', body });
  assert.equal(created.statusCode, 201);
  const image = (await json(created)) as Record<string, unknown>;
  const recorded =
    'additionalOsCapabilities, baseImageArn, baseImageVersion, buildPhaseOverrides, buildRoleArn, codeArtifact, cpuConfigurations, createdAt, description, egressNetworkConnectors, environmentVariables, hooks, id, imageArn, imageVersion, latestActiveImageVersion, latestFailedImageVersion, logging, name, resources, roleConfiguration, state, tags, updatedAt';
  assert.deepEqual(Object.keys(image).sort(), recorded.split(', '));
  assert.deepEqual(
    [image.buildPhaseOverrides, image.roleConfiguration, image.latestActiveImageVersion, image.tags, image.hooks],
    [null, null, null, null, null],
  );
  assert.ok(typeof image.createdAt === 'number' && Math.abs(image.createdAt - Date.now() / 1000) < 600);
  for await (const _ of bench.images.buildLog(imageArn, '1.0', { follow: true })) {
    // Only its end matters.
  }
  const run = await ask(bench, { method: 'POST', body: JSON.stringify({ imageIdentifier: imageArn }) });
  const microvm = (await json(run)) as Record<string, unknown>;
  const members =
    'egressNetworkConnectors, endpoint, executionRoleArn, idlePolicy, imageArn, imageVersion, ingressNetworkConnectors, maximumDurationInSeconds, microvmId, startedAt, state, stateReason, terminatedAt, terminationReasonCode';
  assert.deepEqual(Object.keys(microvm).sort(), members.split(', '));
  const list = (await json(await ask(bench, {}))) as { items: object[]; nextToken: unknown };
  assert.equal(list.nextToken, null);
  assert.deepEqual(Object.keys(list.items[0] ?? {}).sort(), [
    'imageArn',
    'imageVersion',
    'microvmId',
    'startedAt',
    'state',
  ]);
});

test('commands without members answer an empty object and need no content type', async () => {
  await using bench = await createApiBench();
  const id = await withMicrovm(bench);
  const response = await ask(bench, { method: 'POST', path: `/2025-09-09/microvms/${id}/suspend` });
  assert.equal(response.statusCode, 200);
  assert.equal(await text(response), '{}');
});

test('what is unknown is answered with 404, null members and the type in the header only', async () => {
  await using bench = await createApiBench();
  const nothing = { resourceId: null, resourceType: null };
  assert.deepEqual(await refusal(bench, { path: `/2025-09-09/microvms/${unknownId}` }), {
    status: 404,
    type: 'ResourceNotFoundException',
    body: { message: `MicroVM not found: ${unknownId}`, ...nothing },
  });
  assert.deepEqual(await refusal(bench, { path: `/2025-09-09/microvm-images/${encodeURIComponent(imageArn)}` }), {
    status: 404,
    type: 'ResourceNotFoundException',
    body: { message: `MicroVMImage not found for MicroVMImageID: ${imageArn}`, ...nothing },
  });
  const run = { method: 'POST', body: JSON.stringify({ imageIdentifier: imageArn }) };
  assert.deepEqual(await refusal(bench, run), {
    status: 404,
    type: 'ResourceNotFoundException',
    body: { message: `No active version found for MicroVM image ${imageArn}`, ...nothing },
  });
});

test('the SDK sees refusals as its own exceptions', async () => {
  await using bench = await createApiBench();
  const microvmIdentifier = await withMicrovm(bench);
  const again = bench.sdk.send(new CreateMicrovmImageCommand(newImage));
  await assert.rejects(again, {
    name: 'ValidationException',
    message: "A MicroVM image with the name 'demo' already exists in this account",
  });
  const forever = new CreateMicrovmAuthTokenCommand({
    microvmIdentifier,
    expirationInMinutes: 61,
    allowedPorts: [{ port: 80 }],
  });
  await assert.rejects(bench.sdk.send(forever), {
    name: 'ValidationException',
    message: 'ExpirationMinutes 61 exceeded max allowed of 60.',
  });
  await bench.sdk.send(new TerminateMicrovmCommand({ microvmIdentifier }));
  await assert.rejects(bench.sdk.send(new GetMicrovmCommand({ microvmIdentifier: unknownId })), {
    name: 'ResourceNotFoundException',
  });
});

const badIdentifiers: readonly (readonly [identifier: string, status: number, type: string, message: RegExp])[] = [
  ['demo', 400, 'ValidationException', /^Invalid ARN format: demo$/],
  [
    imageArn.replace('image:', 'image/'),
    403,
    'AccessDeniedException',
    /^User: arn:aws:iam::000000000000:root is not authorized to perform: lambda:GetMicrovmImage on resource: /,
  ],
  [imageArn.replace(account, '111122223333'), 403, 'AccessDeniedException', /because no identity-based policy allows/],
];
for (const [identifier, status, type, message] of badIdentifiers) {
  test(`the image identifier ${identifier} is refused with ${status}`, async () => {
    await using bench = await createApiBench();
    const answer = await refusal(bench, { path: `/2025-09-09/microvm-images/${encodeURIComponent(identifier)}` });
    assert.deepEqual([answer.status, answer.type], [status, type]);
    assert.match((answer.body as { message: string }).message, message);
  });
}

test('RunMicrovm words a bare name its own way', async () => {
  await using bench = await createApiBench();
  const run = bench.sdk.send(new RunMicrovmCommand({ imageIdentifier: 'demo' }));
  await assert.rejects(run, { name: 'ValidationException', message: "Malformed ARN - doesn't start with 'arn:'" });
});

test('malformed JSON, oversized bodies and unknown paths are refused clearly', async () => {
  await using bench = await createApiBench();
  const malformed = await refusal(bench, { method: 'POST', body: '{"imageIdentifier":' });
  assert.deepEqual([malformed.status, malformed.type], [400, 'SerializationException']);
  const huge = JSON.stringify({ imageIdentifier: imageArn, runHookPayload: 'x'.repeat(2 * 1024 * 1024) });
  const oversized = await refusal(bench, { method: 'POST', body: huge });
  assert.deepEqual([oversized.status, oversized.type], [413, 'RequestEntityTooLargeException']);
  const unknown = await refusal(bench, { path: '/2025-09-09/microvms/a/b/c' });
  assert.deepEqual([unknown.status, unknown.type], [404, 'UnknownOperationException']);
});

const signatureCases = [
  ['an unknown key', { credentials: { ...credentials, accessKeyId: 'NOBODY' } }, 'UnrecognizedClientException'],
  ['a wrong secret', { credentials: { ...credentials, secretAccessKey: 'x' } }, 'InvalidSignatureException'],
  ['another region', { region: 'eu-west-1' }, 'InvalidSignatureException'],
  ['a clock an hour ahead', { systemClockOffset: 3_600_000 }, 'InvalidSignatureException'],
] as const;
for (const [what, config, name] of signatureCases) {
  test(`a request signed with ${what} is an ${name}`, async () => {
    await using bench = await createApiBench();
    await assert.rejects(bench.client(config).send(new ListMicrovmsCommand()), { name });
  });
}

test('a request without a signature is refused', async () => {
  await using bench = await createApiBench();
  assert.deepEqual(await refusal(bench, { unsigned: true }), {
    status: 403,
    type: 'MissingAuthenticationTokenException',
    body: { message: 'Missing Authentication Token' },
  });
});

test('with auth off local programs need no key, and web pages get nothing', async () => {
  await using bench = await createApiBench({ auth: 'off' });
  assert.equal((await ask(bench, { unsigned: true })).statusCode, 200);
  const page = await refusal(bench, { unsigned: true, headers: { origin: 'http://evil.test' } });
  assert.deepEqual([page.status, page.type], [403, 'AccessDeniedException']);
});
