/** The life of images and versions beyond their creation, and tags, by the official SDK over the real rooms. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  CreateMicrovmImageCommand,
  DeleteMicrovmImageCommand,
  DeleteMicrovmImageVersionCommand,
  GetMicrovmCommand,
  GetMicrovmImageCommand,
  GetMicrovmImageVersionCommand,
  ListMicrovmImagesCommand,
  ListMicrovmImageVersionsCommand,
  ListTagsCommand,
  RunMicrovmCommand,
  TagResourceCommand,
  TerminateMicrovmCommand,
  UntagResourceCommand,
  UpdateMicrovmImageCommand,
  UpdateMicrovmImageVersionCommand,
} from '@aws-sdk/client-lambda-microvms';
import {
  type ApiBench,
  account,
  baseImageArn,
  buildRoleArn,
  codeArtifact,
  createApiBench,
  type Limits,
  region,
} from '../support/api-bench.ts';

const imageIdentifier = `arn:aws:lambda:${region}:${account}:microvm-image:demo`;
const configuration = { baseImageArn, buildRoleArn, codeArtifact };

async function built(bench: ApiBench, version: string): Promise<void> {
  for await (const _ of bench.images.buildLog(imageIdentifier, version, { follow: true })) {
    // Only its end matters.
  }
}

async function benchWithImage(limits: Limits = {}): Promise<ApiBench> {
  const bench = await createApiBench({ limits });
  await bench.sdk.send(new CreateMicrovmImageCommand({ ...configuration, name: 'demo' }));
  await built(bench, '1.0');
  return bench;
}

/** Asks until `ask` resolves; what happens meanwhile happens by itself and soon. */
async function until<T>(ask: () => Promise<T | undefined>): Promise<T> {
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

function settled(bench: ApiBench, state: string): Promise<true> {
  return until(async () => {
    const image = await bench.sdk.send(new GetMicrovmImageCommand({ imageIdentifier }));
    return image.state === state || undefined;
  });
}

test('an image is updated, its versions deactivated and deleted, and it goes itself', { timeout: 60_000 }, async () => {
  await using bench = await benchWithImage();
  const update = new UpdateMicrovmImageCommand({ ...configuration, imageIdentifier, description: 'second' });
  const updated = await bench.sdk.send(update);
  assert.deepEqual(
    [updated.state, updated.imageVersion, updated.latestActiveImageVersion, updated.description],
    ['UPDATING', '2.0', '1.0', 'second'],
  );
  assert.ok(updated.updatedAt instanceof Date);
  assert.ok(!('tags' in updated));
  await built(bench, '2.0');
  await settled(bench, 'UPDATED');

  const onFirst = { imageIdentifier, imageVersion: '1.0' };
  const inactive = await bench.sdk.send(new UpdateMicrovmImageVersionCommand({ ...onFirst, status: 'INACTIVE' }));
  assert.deepEqual([inactive.state, inactive.status, inactive.imageVersion], ['SUCCESSFUL', 'INACTIVE', '1.0']);
  await assert.rejects(bench.sdk.send(new RunMicrovmCommand(onFirst)), {
    name: 'ResourceNotFoundException',
    message: `No active version found for MicroVM image ${imageIdentifier} and version 1.0`,
  });

  const gone = await bench.sdk.send(new DeleteMicrovmImageVersionCommand(onFirst));
  assert.deepEqual([gone.imageIdentifier, gone.imageVersion, gone.state], [imageIdentifier, '1.0', 'DELETING']);
  await settled(bench, 'UPDATED');
  await assert.rejects(bench.sdk.send(new GetMicrovmImageVersionCommand(onFirst)), {
    name: 'ResourceNotFoundException',
    message: `MicroVMImage not found for MicroVMImage: ${imageIdentifier}, Version: 1.0`,
  });
  const { items: versions } = await bench.sdk.send(new ListMicrovmImageVersionsCommand({ imageIdentifier }));
  assert.deepEqual(
    versions?.map((item) => item.imageVersion),
    ['2.0'],
  );

  const deleting = await bench.sdk.send(new DeleteMicrovmImageCommand({ imageIdentifier }));
  assert.deepEqual([deleting.imageIdentifier, deleting.state], [imageIdentifier, 'DELETING']);
  await until(async () => {
    const { items } = await bench.sdk.send(new ListMicrovmImagesCommand());
    return items?.length === 0 || undefined;
  });
  await assert.rejects(bench.sdk.send(new GetMicrovmImageCommand({ imageIdentifier })), {
    name: 'ResourceNotFoundException',
    message: `MicroVMImage not found for MicroVMImageID: ${imageIdentifier}`,
  });
});

test('an image is not deleted while a microVM of it has not ended', { timeout: 60_000 }, async () => {
  await using bench = await benchWithImage();
  const { microvmId: microvmIdentifier } = await bench.sdk.send(new RunMicrovmCommand({ imageIdentifier }));
  await assert.rejects(bench.sdk.send(new DeleteMicrovmImageCommand({ imageIdentifier })), {
    name: 'ValidationException',
    message: 'Cannot delete microvm image with running microvms.',
  });
  await bench.sdk.send(new TerminateMicrovmCommand({ microvmIdentifier }));
  await until(async () => {
    const { state } = await bench.sdk.send(new GetMicrovmCommand({ microvmIdentifier }));
    return state === 'TERMINATED' || undefined;
  });
  await bench.sdk.send(new DeleteMicrovmImageCommand({ imageIdentifier }));
});

test('changes while the image is UPDATING are the recorded conflict', async () => {
  await using bench = await benchWithImage();
  using _held = bench.engine.hold('build');
  await bench.sdk.send(new UpdateMicrovmImageCommand({ ...configuration, imageIdentifier }));
  const busy = { name: 'ConflictException', message: 'MicroVM Image is already in state: UPDATING' };
  const onFirst = { imageIdentifier, imageVersion: '1.0' };
  const { sdk } = bench;
  await assert.rejects(sdk.send(new UpdateMicrovmImageCommand({ ...configuration, imageIdentifier })), busy);
  await assert.rejects(sdk.send(new UpdateMicrovmImageVersionCommand({ ...onFirst, status: 'ACTIVE' })), busy);
  await assert.rejects(sdk.send(new DeleteMicrovmImageVersionCommand(onFirst)), busy);
});

test('deleting an image calls its build off', async () => {
  await using bench = await benchWithImage();
  bench.engine.hold('build');
  await bench.sdk.send(new UpdateMicrovmImageCommand({ ...configuration, imageIdentifier }));
  const { state } = await bench.sdk.send(new DeleteMicrovmImageCommand({ imageIdentifier }));
  assert.equal(state, 'DELETING');
  await until(async () => {
    const { items } = await bench.sdk.send(new ListMicrovmImagesCommand());
    return items?.length === 0 || undefined;
  });
});

test('tags are set, listed, shown by the image and taken away', async () => {
  await using bench = await benchWithImage();
  const Resource = imageIdentifier;
  const tagged = await bench.sdk.send(new TagResourceCommand({ Resource, Tags: { team: 'a', 'cost center': '' } }));
  assert.equal(tagged.$metadata.httpStatusCode, 204);
  assert.deepEqual((await bench.sdk.send(new ListTagsCommand({ Resource }))).Tags, { team: 'a', 'cost center': '' });
  const untagged = await bench.sdk.send(new UntagResourceCommand({ Resource, TagKeys: ['cost center', 'x'] }));
  assert.equal(untagged.$metadata.httpStatusCode, 204);
  const image = await bench.sdk.send(new GetMicrovmImageCommand({ imageIdentifier }));
  assert.deepEqual(image.tags, { team: 'a' });
  for (const [arn, name] of [
    [`arn:aws:lambda:${region}:${account}:microvm:microvm-1`, 'ValidationException'],
    ['microvm-1', 'ValidationException'],
    [`${imageIdentifier}x`, 'ResourceNotFoundException'],
    [`arn:aws:lambda:${region}:${account}:network-connector:nc-1`, 'ResourceNotFoundException'],
    [`arn:aws:lambda:${region}:${account}:function:f`, 'ResourceNotFoundException'],
  ]) {
    await assert.rejects(bench.sdk.send(new ListTagsCommand({ Resource: arn })), { name });
  }
});

test('quotas answer 402 and a call rate 429 with a wait', async () => {
  const rates = { GetMicrovmImage: { perSecond: 1, burst: 1 } };
  await using bench = await benchWithImage({ images: { images: 1 }, memoryMiB: 2048, rates });
  await assert.rejects(bench.sdk.send(new CreateMicrovmImageCommand({ ...configuration, name: 'two' })), {
    name: 'ServiceQuotaExceededException',
  });
  await bench.sdk.send(new RunMicrovmCommand({ imageIdentifier }));
  await assert.rejects(bench.sdk.send(new RunMicrovmCommand({ imageIdentifier })), {
    name: 'ServiceQuotaExceededException',
    message: 'The base maximum allocated memory limit has been reached for this account.',
  });
  const get = new GetMicrovmImageCommand({ imageIdentifier });
  await bench.sdk.send(get);
  await assert.rejects(bench.sdk.send(get), { name: 'ThrottlingException', retryAfterSeconds: 1 });
});
