/** Policies as clients meet them: users with keys of their own, through the official SDK over the real rooms. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  CreateMicrovmAuthTokenCommand,
  CreateMicrovmImageCommand,
  DeleteMicrovmImageCommand,
  DeleteMicrovmImageVersionCommand,
  GetMicrovmCommand,
  GetMicrovmImageCommand,
  type LambdaMicrovmsClient,
  ListMicrovmImagesCommand,
  ListMicrovmsCommand,
  ListTagsCommand,
  RunMicrovmCommand,
  TagResourceCommand,
  TerminateMicrovmCommand,
  UntagResourceCommand,
  UpdateMicrovmImageCommand,
  UpdateMicrovmImageVersionCommand,
} from '@aws-sdk/client-lambda-microvms';
import { S3 } from '@aws-sdk/client-s3';
import {
  type ApiBench,
  account,
  baseImageArn,
  buildRoleArn,
  codeArtifact,
  createApiBench,
  region,
} from '../support/api-bench.ts';

const arnOf = (name: string) => `arn:aws:lambda:${region}:${account}:microvm-image:${name}`;
const connector = (name: string) => `arn:aws:lambda:${region}:aws:network-connector:aws-network-connector:${name}`;
const executionRoleArn = `arn:aws:iam::${account}:role/execution`;
const ann = { kind: 'user', name: 'ann' } as const;

const allow = (Action: string | string[], Resource: string | string[] = '*', over: object = {}) => ({
  Effect: 'Allow',
  Action,
  Resource,
  ...over,
});
const deny = (Action: string | string[], Resource: string | string[] = '*') => ({
  ...allow(Action, Resource),
  Effect: 'Deny',
});
const passConnectors = allow('lambda:PassNetworkConnector');

/** A client of the user ann with one policy of these statements. */
async function asAnn(bench: ApiBench, ...statements: object[]): Promise<LambdaMicrovmsClient> {
  const { directory } = bench.identity;
  await directory.create(ann);
  await policy(bench, ...statements);
  return bench.client({ credentials: await directory.createKey('ann') });
}

async function policy(bench: ApiBench, ...statements: object[]): Promise<void> {
  const document = JSON.stringify({ Version: '2012-10-17', Statement: statements });
  await bench.identity.directory.putPolicy(ann, 'p', document);
}

function newImage(name: string, over: object = {}) {
  return new CreateMicrovmImageCommand({ name, baseImageArn, buildRoleArn, codeArtifact, ...over });
}

/** As the root. */
async function build(bench: ApiBench, name: string, tags: Record<string, string> = {}): Promise<string> {
  await bench.sdk.send(newImage(name, { tags }));
  for await (const _ of bench.images.buildLog(arnOf(name), '1.0', { follow: true })) {
    // Only its end matters.
  }
  return arnOf(name);
}

function run(client: LambdaMicrovmsClient, imageIdentifier: string, over: object = {}) {
  return client.send(new RunMicrovmCommand({ imageIdentifier, ...over }));
}

/** That the call is refused in IAM's words. */
async function denied(
  call: Promise<unknown>,
  action: string,
  resource: string,
  why = `because no identity-based policy allows the ${action} action`,
): Promise<void> {
  await assert.rejects(call, (error: Error & { $metadata?: { httpStatusCode?: number } }) => {
    assert.equal(error.name, 'AccessDeniedException');
    assert.equal(error.$metadata?.httpStatusCode, 403);
    assert.equal(
      error.message,
      `User: arn:aws:iam::${account}:user/ann is not authorized to perform: ${action} on resource: ${resource} ${why}`,
    );
    return true;
  });
}

async function microvmCount(bench: ApiBench): Promise<number> {
  return (await bench.microvms.list({})).items.length;
}

test('a user may run the image its policy names and no other, and refusals launch nothing', async () => {
  await using bench = await createApiBench();
  const [shop, bank] = [await build(bench, 'shop'), await build(bench, 'bank')];
  const client = await asAnn(bench, allow(['lambda:RunMicrovm', 'lambda:GetMicrovm'], shop), passConnectors);
  const { microvmId } = await run(client, shop);
  await denied(run(client, bank), 'lambda:RunMicrovm', bank);
  await denied(run(client, arnOf('nothing')), 'lambda:RunMicrovm', arnOf('nothing'));
  assert.equal(await microvmCount(bench), 1);
  assert.equal((await client.send(new GetMicrovmCommand({ microvmIdentifier: microvmId }))).imageArn, shop);
  await denied(
    client.send(new TerminateMicrovmCommand({ microvmIdentifier: microvmId })),
    'lambda:TerminateMicrovm',
    shop,
  );
  await denied(client.send(new ListMicrovmsCommand({})), 'lambda:ListMicrovms', '*');
});

test('an explicit deny wins over every allow and says so', async () => {
  await using bench = await createApiBench();
  const shop = await build(bench, 'shop');
  const client = await asAnn(bench, allow('*'), deny('lambda:Run*', arnOf('s*')));
  await denied(run(client, shop), 'lambda:RunMicrovm', shop, 'with an explicit deny in an identity-based policy');
  assert.ok((await client.send(new GetMicrovmImageCommand({ imageIdentifier: shop }))).name);
});

test('connectors nobody named have to be passed too, egress before ingress', async () => {
  await using bench = await createApiBench();
  const shop = await build(bench, 'shop');
  const mayRun = allow('lambda:RunMicrovm', shop);
  const pass = (name: string) => allow('lambda:PassNetworkConnector', connector(name));
  const client = await asAnn(bench, mayRun);
  await denied(run(client, shop), 'lambda:PassNetworkConnector', connector('INTERNET_EGRESS'));
  await policy(bench, mayRun, pass('INTERNET_EGRESS'));
  await denied(run(client, shop), 'lambda:PassNetworkConnector', connector('HTTP_INGRESS'));
  await policy(bench, mayRun, pass('INTERNET_EGRESS'), pass('HTTP_INGRESS'));
  const shell = { ingressNetworkConnectors: [connector('HTTP_INGRESS'), connector('SHELL_INGRESS')] };
  await denied(run(client, shop, shell), 'lambda:PassNetworkConnector', connector('SHELL_INGRESS'));
  assert.equal(await microvmCount(bench), 0);
  assert.equal((await run(client, shop)).state, 'PENDING');
});

test('a role is handed on by who may pass it to this service', async () => {
  await using bench = await createApiBench();
  const shop = await build(bench, 'shop');
  const basics = [allow('lambda:*'), passConnectors];
  const client = await asAnn(bench, ...basics);
  const launch = () => run(client, shop, { executionRoleArn });
  await denied(launch(), 'iam:PassRole', executionRoleArn);
  const to = (service: string) => ({ Condition: { StringEquals: { 'iam:PassedToService': service } } });
  await policy(bench, ...basics, allow('iam:PassRole', executionRoleArn, to('ec2.amazonaws.com')));
  await denied(launch(), 'iam:PassRole', executionRoleArn);
  await policy(bench, ...basics, allow('iam:PassRole', executionRoleArn, to('lambda.amazonaws.com')));
  assert.equal((await launch()).executionRoleArn, executionRoleArn);
  await denied(client.send(newImage('bank')), 'iam:PassRole', buildRoleArn);
});

test('creating is authorised on *, with tags under conditions and the right to tag', async () => {
  await using bench = await createApiBench();
  const Condition = {
    StringEquals: { 'aws:RequestTag/team': 'a' },
    'ForAllValues:StringEquals': { 'aws:TagKeys': ['team', 'stage'] },
  };
  const basics = [allow('lambda:CreateMicrovmImage', '*', { Condition }), passConnectors, allow('iam:PassRole')];
  const client = await asAnn(bench, ...basics);
  const create = (tags?: object) => client.send(newImage('shop', { tags }));
  await denied(create(), 'lambda:CreateMicrovmImage', '*');
  await denied(create({ team: 'b' }), 'lambda:CreateMicrovmImage', '*');
  await denied(create({ team: 'a', owner: 'ann' }), 'lambda:CreateMicrovmImage', '*');
  await denied(create({ team: 'a', stage: 'x' }), 'lambda:TagResource', arnOf('shop'));
  await policy(bench, ...basics, allow('lambda:TagResource', arnOf('shop')));
  assert.equal((await create({ team: 'a', stage: 'x' })).state, 'CREATING');
});

test("an image's tags decide over it and over what was launched from it", async () => {
  await using bench = await createApiBench();
  const [shop, bank] = [await build(bench, 'shop', { team: 'a' }), await build(bench, 'bank', { team: 'b' })];
  const Condition = { StringEquals: { 'aws:ResourceTag/team': 'a' } };
  const client = await asAnn(bench, allow('lambda:*Microvm*', '*', { Condition }), passConnectors);
  const { microvmId } = await run(client, shop);
  await denied(run(client, bank), 'lambda:RunMicrovm', bank);
  const token = { expirationInMinutes: 5, allowedPorts: [{ allPorts: {} }] };
  await client.send(new CreateMicrovmAuthTokenCommand({ microvmIdentifier: microvmId, ...token }));
  const other = await run(bench.sdk, bank);
  const call = client.send(new CreateMicrovmAuthTokenCommand({ microvmIdentifier: other.microvmId, ...token }));
  await denied(call, 'lambda:CreateMicrovmAuthToken', bank);
});

test('where a request comes from and when it is made can be conditions', async () => {
  await using bench = await createApiBench();
  const list = async (Condition: object) => {
    await policy(bench, allow('lambda:ListMicrovmImages', '*', { Condition }));
    return client.send(new ListMicrovmImagesCommand({}));
  };
  const client = await asAnn(bench, allow('lambda:ListMicrovmImages'));
  assert.deepEqual((await list({ IpAddress: { 'aws:SourceIp': '127.0.0.0/8' } })).items, []);
  await denied(list({ NotIpAddress: { 'aws:SourceIp': '127.0.0.0/8' } }), 'lambda:ListMicrovmImages', '*');
  await denied(list({ DateLessThan: { 'aws:CurrentTime': '2020-01-01T00:00:00Z' } }), 'lambda:ListMicrovmImages', '*');
  assert.deepEqual((await list({ StringEquals: { 'aws:RequestedRegion': region, 'aws:username': 'ann' } })).items, []);
});

test('foreign and malformed image ARNs are refused as on AWS, and a stranger learns nothing of microVMs', async () => {
  await using bench = await createApiBench();
  const shop = await build(bench, 'shop');
  const client = await asAnn(bench, allow('lambda:*', shop));
  const get = (imageIdentifier: string) => client.send(new GetMicrovmImageCommand({ imageIdentifier }));
  for (const foreign of [shop.replace(account, '111122223333'), shop.replace('microvm-image:', 'microvm-image/')]) {
    await denied(get(foreign), 'lambda:GetMicrovmImage', foreign);
  }
  await assert.rejects(get('shop'), { name: 'ValidationException', message: 'Invalid ARN format: shop' });
  await assert.rejects(run(client, 'shop'), { name: 'ValidationException', message: /^Malformed ARN/ });

  const microvmIdentifier = 'microvm-00000000-0000-0000-0000-000000000000';
  const unknown = () => client.send(new GetMicrovmCommand({ microvmIdentifier }));
  await assert.rejects(unknown(), { name: 'ResourceNotFoundException' });
  await policy(bench, allow('lambda:RunMicrovm', shop));
  await denied(unknown(), 'lambda:GetMicrovm', '*');
});

test('a key that was removed is nobody from then on', async () => {
  await using bench = await createApiBench();
  const client = await asAnn(bench, allow('lambda:*'));
  await client.send(new ListMicrovmsCommand({}));
  await bench.identity.directory.remove(ann);
  await assert.rejects(client.send(new ListMicrovmsCommand({})), { name: 'UnrecognizedClientException' });
});

test('changing tags is decided by the tags there are and those to come', async () => {
  await using bench = await createApiBench();
  const Resource = await build(bench, 'shop', { team: 'a' });
  const Condition = {
    StringEquals: { 'aws:ResourceTag/team': 'a' },
    'ForAllValues:StringLike': { 'aws:TagKeys': 'x-*' },
  };
  const client = await asAnn(bench, allow(['lambda:TagResource', 'lambda:UntagResource'], Resource, { Condition }));
  await client.send(new TagResourceCommand({ Resource, Tags: { 'x-1': 'y' } }));
  await denied(client.send(new TagResourceCommand({ Resource, Tags: { team: 'b' } })), 'lambda:TagResource', Resource);
  await denied(
    client.send(new UntagResourceCommand({ Resource, TagKeys: ['team'] })),
    'lambda:UntagResource',
    Resource,
  );
  await client.send(new UntagResourceCommand({ Resource, TagKeys: ['x-1'] }));
  await denied(client.send(new ListTagsCommand({ Resource })), 'lambda:ListTags', Resource);
  const { Tags } = await bench.sdk.send(new ListTagsCommand({ Resource }));
  assert.deepEqual(Tags, { team: 'a' });
});

test('a policy that allows every operation on one image lets nothing else be changed', async () => {
  await using bench = await createApiBench();
  const [shop, bank] = [await build(bench, 'shop'), await build(bench, 'bank')];
  const client = await asAnn(bench, allow('lambda:*', shop));
  const update = { imageIdentifier: bank, baseImageArn, buildRoleArn, codeArtifact };
  await denied(client.send(new UpdateMicrovmImageCommand(update)), 'lambda:UpdateMicrovmImage', bank);
  const version = { imageIdentifier: bank, imageVersion: '1.0' };
  const setStatus = client.send(new UpdateMicrovmImageVersionCommand({ ...version, status: 'INACTIVE' }));
  await denied(setStatus, 'lambda:UpdateMicrovmImageVersion', bank);
  await denied(client.send(new DeleteMicrovmImageVersionCommand(version)), 'lambda:DeleteMicrovmImageVersion', bank);
  await denied(
    client.send(new DeleteMicrovmImageCommand({ imageIdentifier: bank })),
    'lambda:DeleteMicrovmImage',
    bank,
  );
  assert.equal((await bench.images.get(bank)).state, 'CREATED');
  const ownUpdate = client.send(new UpdateMicrovmImageCommand({ ...update, imageIdentifier: shop }));
  await denied(ownUpdate, 'lambda:PassNetworkConnector', connector('INTERNET_EGRESS'));
});

test('the object store asks the same policies, key by key', async () => {
  await using bench = await createApiBench();
  const Condition = { IpAddress: { 'aws:SourceIp': '127.0.0.1' } };
  await asAnn(bench, allow('s3:*Object', 'arn:aws:s3:::artifacts/ann/*', { Condition }));
  const key = await bench.identity.directory.createKey('ann');
  const s3 = new S3({
    endpoint: `http://127.0.0.1:${bench.s3Port}`,
    region,
    credentials: key,
    forcePathStyle: true,
    maxAttempts: 1,
  });
  try {
    await s3.putObject({ Bucket: 'artifacts', Key: 'ann/a.txt', Body: 'a' });
    const { Body } = await s3.getObject({ Bucket: 'artifacts', Key: 'ann/a.txt' });
    assert.equal(await Body?.transformToString(), 'a');
    await assert.rejects(s3.getObject({ Bucket: 'artifacts', Key: 'app.zip' }), { name: 'AccessDenied' });
    await assert.rejects(s3.listObjectsV2({ Bucket: 'artifacts' }), { name: 'AccessDenied' });
  } finally {
    s3.destroy();
  }
});
