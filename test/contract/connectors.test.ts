/**
 * The connector operations over the real rooms, byte for byte: no official JavaScript client of this service is
 * published, so the requests are signed with the official signer.
 */
import assert from 'node:assert/strict';
import { request as httpRequest } from 'node:http';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { Sha256 } from '@aws-crypto/sha256-js';
import {
  CreateMicrovmImageCommand,
  GetMicrovmCommand,
  GetMicrovmImageVersionCommand,
  ListTagsCommand,
  RunMicrovmCommand,
  TagResourceCommand,
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
} from '../support/api-bench.ts';

const ROOT = '/2026-04-04/network-connectors';
const OperatorRole = `arn:aws:iam::${account}:role/operator`;
const vpc = {
  SubnetIds: ['subnet-1'],
  SecurityGroupIds: ['sg-1'],
  NetworkProtocol: 'IPv4',
  AssociatedComputeResourceTypes: ['MicroVm'],
};
const input = {
  Name: 'office',
  Configuration: { VpcEgressConfiguration: vpc },
  OperatorRole,
  ClientToken: 'token-1',
};

interface Answer {
  readonly status: number | undefined;
  readonly type: string | undefined;
  readonly body: Record<string, unknown>;
}

async function ask(
  bench: ApiBench,
  method: string,
  path: string,
  body?: unknown,
  query: Record<string, string> = {},
): Promise<Answer> {
  const signer = new SignatureV4({ credentials, region, service: 'lambda', sha256: Sha256 });
  const headers = { host: `127.0.0.1:${bench.apiPort}` };
  const content = body === undefined ? undefined : JSON.stringify(body);
  const signed = await signer.sign(new HttpRequest({ method, path, headers, query, body: content }));
  const search = new URLSearchParams(query).toString();
  const target = search === '' ? path : `${path}?${search}`;
  return await new Promise((resolve, reject) => {
    const request = httpRequest(
      { host: '127.0.0.1', port: bench.apiPort, method, path: target, headers: signed.headers },
      async (response) => {
        const { 'x-amzn-errortype': type } = response.headers;
        resolve({
          status: response.statusCode,
          type: typeof type === 'string' ? type : undefined,
          body: JSON.parse(await text(response)),
        });
      },
    );
    request.on('error', reject).end(content);
  });
}

async function untilState(bench: ApiBench, id: string, state: string): Promise<Answer> {
  for (;;) {
    const answer = await ask(bench, 'GET', `${ROOT}/${id}`);
    if (answer.body.State === state && answer.body.LastUpdateStatus !== 'InProgress') return answer;
    if (answer.status !== 200) assert.fail(JSON.stringify(answer));
  }
}

test('a connector is created, read, listed, updated and deleted with the recorded members', {
  timeout: 60_000,
}, async () => {
  await using bench = await createApiBench();
  const created = await ask(bench, 'POST', ROOT, input);
  assert.equal(created.status, 202);
  const Id = String(created.body.Id);
  const Arn = `arn:aws:lambda:${region}:${account}:network-connector:${Id}`;
  const base = { Arn, Name: 'office', Id, Configuration: input.Configuration, OperatorRole };
  assert.deepEqual(created.body, { ...base, State: 'PENDING' });

  const active = await untilState(bench, Id, 'ACTIVE');
  const { LastModified, ...rest } = active.body;
  assert.match(String(LastModified), /^\d{4}-\d\d-\d\dT.*Z$/);
  assert.deepEqual(rest, { ...base, State: 'ACTIVE', StateReason: 'Initial creation' });
  for (const identifier of ['office', encodeURIComponent(Arn)]) {
    assert.deepEqual((await ask(bench, 'GET', `${ROOT}/${identifier}`)).body, active.body);
  }

  const listed = await ask(bench, 'GET', ROOT, undefined, { State: 'ACTIVE', MaxItems: '100' });
  assert.deepEqual(listed.body, {
    NetworkConnectors: [{ Arn, Name: 'office', Id, Type: 'VPC_EGRESS', State: 'ACTIVE', LastModified }],
  });
  assert.deepEqual((await ask(bench, 'GET', ROOT, undefined, { State: 'FAILED' })).body, { NetworkConnectors: [] });

  const same = await ask(bench, 'PUT', `${ROOT}/${Id}`, { Configuration: input.Configuration, ClientToken: 'u' });
  assert.equal(same.status, 202);
  assert.deepEqual(same.body, {
    ...base,
    State: 'ACTIVE',
    LastModified,
    LastUpdateStatus: 'Successful',
    LastUpdateStatusReason: 'No configuration changes detected',
  });
  const Configuration = { VpcEgressConfiguration: { ...vpc, SubnetIds: ['subnet-2'] } };
  const updated = await ask(bench, 'PUT', `${ROOT}/office`, { Configuration });
  assert.deepEqual([updated.body.State, updated.body.LastUpdateStatus], ['ACTIVE', 'InProgress']);
  assert.deepEqual((await untilState(bench, Id, 'ACTIVE')).body.Configuration, Configuration);

  const deleted = await ask(bench, 'DELETE', `${ROOT}/${Id}`);
  assert.equal(deleted.status, 202);
  assert.deepEqual(deleted.body, { ...base, Configuration, State: 'DELETING' });
  for (;;) {
    const gone = await ask(bench, 'GET', `${ROOT}/${Id}`);
    if (gone.status === 200) continue;
    assert.deepEqual(gone, {
      status: 404,
      type: 'ResourceNotFoundException',
      body: { Message: `Network connector not found for: ${Arn}` },
    });
    break;
  }
});

test('refusals have the shapes of the connectors: constraint layer first, then prose, names and quota', async () => {
  await using bench = await createApiBench({ limits: { connectors: 1 } });
  const subnets = Array.from({ length: 17 }, (_, i) => `subnet-${i}`);
  const many = await ask(bench, 'POST', ROOT, {
    Name: 'x',
    Configuration: { VpcEgressConfiguration: { SubnetIds: subnets } },
  });
  assert.deepEqual([many.status, many.type], [400, 'ValidationException']);
  assert.match(
    String(many.body.message),
    /at 'configuration\.vpcEgressConfiguration\.subnetIds' .* less than or equal to 16$/,
  );
  const { ClientToken: _token, ...tokenless } = input;
  assert.deepEqual(await ask(bench, 'POST', ROOT, tokenless), {
    status: 400,
    type: 'InvalidParameterValueException',
    body: { message: 'ClientToken is a required field' },
  });
  const first = await ask(bench, 'POST', ROOT, input);
  assert.equal((await ask(bench, 'POST', ROOT, input)).body.Id, first.body.Id);
  const taken = await ask(bench, 'POST', ROOT, { ...input, ClientToken: 'other' });
  assert.deepEqual([taken.status, taken.type], [409, 'ResourceConflictException']);
  const full = await ask(bench, 'POST', ROOT, { ...input, Name: 'second', ClientToken: 'other' });
  assert.deepEqual([full.status, full.type], [400, 'NetworkConnectorLimitExceededException']);
});

test('the list is paged by markers until there is none', async () => {
  await using bench = await createApiBench();
  for (const name of ['a', 'b', 'c']) {
    await ask(bench, 'POST', ROOT, { ...input, Name: name, ClientToken: name });
  }
  const seen: unknown[] = [];
  let marker: string | undefined;
  do {
    const page = await ask(bench, 'GET', ROOT, undefined, { MaxItems: '2', ...(marker && { Marker: marker }) });
    seen.push(...(page.body.NetworkConnectors as { Name: string }[]).map((item) => item.Name));
    marker = page.body.NextMarker as string | undefined;
  } while (marker !== undefined);
  assert.deepEqual(seen.sort(), ['a', 'b', 'c']);
});

test('images and tags know connectors by their ARN', { timeout: 60_000 }, async () => {
  await using bench = await createApiBench();
  const { body } = await ask(bench, 'POST', ROOT, { ...input, Tags: { team: 'a' } });
  const Arn = String(body.Arn);
  await untilState(bench, String(body.Id), 'ACTIVE');
  await bench.sdk.send(new TagResourceCommand({ Resource: Arn, Tags: { stage: 'b' } }));
  assert.deepEqual((await bench.sdk.send(new ListTagsCommand({ Resource: Arn }))).Tags, { team: 'a', stage: 'b' });
  const image = { name: 'demo', baseImageArn, buildRoleArn, codeArtifact };
  const created = await bench.sdk.send(new CreateMicrovmImageCommand({ ...image, egressNetworkConnectors: [Arn] }));
  assert.deepEqual(created.egressNetworkConnectors, [Arn]);
  const gone = `${Arn}0`;
  const unknown = new CreateMicrovmImageCommand({ ...image, name: 'other', egressNetworkConnectors: [gone] });
  await assert.rejects(bench.sdk.send(unknown), {
    name: 'ResourceNotFoundException',
    message: `Network connector not found for: ${gone}`,
  });
});

test('a connector on networks that are not there fails, can be read, and cannot be used or updated', {
  timeout: 60_000,
}, async () => {
  await using bench = await createApiBench();
  const Configuration = { VpcEgressConfiguration: { ...vpc, SubnetIds: ['subnet-9'] } };
  const created = await ask(bench, 'POST', ROOT, { ...input, Configuration });
  const { Id, Arn } = created.body as { Id: string; Arn: string };
  const { LastModified, ...failed } = (await untilState(bench, Id, 'FAILED')).body;
  assert.match(String(LastModified), /Z$/);
  assert.deepEqual(failed, {
    ...created.body,
    State: 'FAILED',
    StateReason: "The subnet subnet-9 is not in this server's networks file.",
    StateReasonCode: 'InvalidSubnet',
  });
  const updated = await ask(bench, 'PUT', `${ROOT}/${Id}`, { Configuration: input.Configuration });
  assert.deepEqual([updated.status, updated.type], [409, 'ResourceConflictException']);
  const image = { name: 'demo', baseImageArn, buildRoleArn, codeArtifact, egressNetworkConnectors: [Arn] };
  await assert.rejects(bench.sdk.send(new CreateMicrovmImageCommand(image)), { name: 'ValidationException' });
  const listed = await ask(bench, 'GET', ROOT, undefined, { State: 'FAILED' });
  assert.equal((listed.body.NetworkConnectors as { Id: string }[])[0]?.Id, Id);
});

test('an update to networks that are not there fails and leaves what was', { timeout: 60_000 }, async () => {
  await using bench = await createApiBench();
  const { body } = await ask(bench, 'POST', ROOT, input);
  await untilState(bench, String(body.Id), 'ACTIVE');
  const Configuration = { VpcEgressConfiguration: { ...vpc, SecurityGroupIds: ['sg-9'] } };
  await ask(bench, 'PUT', `${ROOT}/office`, { Configuration });
  const { body: after } = await untilState(bench, String(body.Id), 'ACTIVE');
  assert.deepEqual(
    [after.LastUpdateStatus, after.LastUpdateStatusReasonCode, after.Configuration],
    ['Failed', 'InvalidSecurityGroup', input.Configuration],
  );
});

test('a connector that a microVM uses cannot be deleted until that has ended', { timeout: 60_000 }, async () => {
  await using bench = await createApiBench();
  const { body } = await ask(bench, 'POST', ROOT, input);
  const { Id, Arn } = body as { Id: string; Arn: string };
  await untilState(bench, Id, 'ACTIVE');
  const imageIdentifier = await builtImage(bench, { egressNetworkConnectors: [Arn] });
  const { microvmId } = await bench.sdk.send(new RunMicrovmCommand({ imageIdentifier }));
  assert.equal((await ask(bench, 'DELETE', `${ROOT}/${Id}`)).status, 202);
  const kept = await untilState(bench, Id, 'DELETE_FAILED');
  assert.match(String(kept.body.StateReason), /In use by 1 MicroVM/);
  assert.equal(kept.body.StateReasonCode, undefined);
  await bench.sdk.send(new TerminateMicrovmCommand({ microvmIdentifier: microvmId }));
  while ((await bench.sdk.send(new GetMicrovmCommand({ microvmIdentifier: microvmId }))).state !== 'TERMINATED');
  assert.equal((await ask(bench, 'DELETE', `${ROOT}/${Id}`)).status, 202);
  while ((await ask(bench, 'GET', `${ROOT}/${Id}`)).status === 200);
});

test('a server that denies by default gives no egress unasked, and refuses the internet by name', {
  timeout: 60_000,
}, async () => {
  await using bench = await createApiBench({ networks: { defaultEgress: 'deny' } });
  const imageIdentifier = await builtImage(bench, {});
  const version = { imageIdentifier, imageVersion: '1.0' };
  assert.deepEqual((await bench.sdk.send(new GetMicrovmImageVersionCommand(version))).egressNetworkConnectors, []);
  const run = await bench.sdk.send(new RunMicrovmCommand({ imageIdentifier }));
  assert.deepEqual(run.egressNetworkConnectors, []);
  for (const egress of bench.engine.egress.values()) assert.deepEqual(egress?.policy, { rules: [], dns: 'off' });
  const internet = `arn:aws:lambda:${region}:aws:network-connector:aws-network-connector:INTERNET_EGRESS`;
  const asked = new RunMicrovmCommand({ imageIdentifier, egressNetworkConnectors: [internet] });
  await assert.rejects(bench.sdk.send(asked), {
    name: 'ValidationException',
    message: /does not allow INTERNET_EGRESS/,
  });
});

async function builtImage(bench: ApiBench, change: { egressNetworkConnectors?: string[] }): Promise<string> {
  const image = { name: 'demo', baseImageArn, buildRoleArn, codeArtifact, ...change };
  const { imageArn: imageIdentifier = '' } = await bench.sdk.send(new CreateMicrovmImageCommand(image));
  const version = new GetMicrovmImageVersionCommand({ imageIdentifier, imageVersion: '1.0' });
  while ((await bench.sdk.send(version)).state !== 'SUCCESSFUL');
  return imageIdentifier;
}
