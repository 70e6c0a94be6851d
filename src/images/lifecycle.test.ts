import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  BUILD_TRANSITIONS,
  type BuildEvent,
  type BuildRecord,
  buildAfter,
  IMAGE_TRANSITIONS,
  type ImageRecord,
  imageAfter,
  statusOf,
  VERSION_TRANSITIONS,
  type VersionRecord,
  versionAfter,
} from './lifecycle.ts';
import type { BuildState, ImageState, VersionConfig, VersionState } from './types.ts';

const AT = 2000;
const sizes = { codeBytes: 1, memoryBytes: 2, diskBytes: 3 };
const damaged = { type: 'damaged', reason: 'a byte' } as const;
const events: BuildEvent[] = [
  { type: 'started' },
  { type: 'succeeded', sizes },
  { type: 'failed', reason: 'broken', codeBytes: null },
];

const config: VersionConfig = {
  baseImageArn: 'arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1',
  baseImageVersion: '1.0',
  buildRoleArn: 'arn:aws:iam::000000000000:role/build',
  description: null,
  codeArtifact: { uri: 's3://b/k' },
  logging: null,
  egressNetworkConnectors: [],
  cpuConfigurations: null,
  resources: [{ minimumMemoryInMiB: 512 }],
  additionalOsCapabilities: null,
  hooks: null,
  environmentVariables: null,
};
const imageIn = (state: ImageState): ImageRecord => ({
  arn: 'arn',
  id: 'id',
  name: 'demo',
  state,
  latestActiveVersion: '1.0',
  latestFailedVersion: null,
  lastMajor: 2,
  tags: {},
  createdAt: 1000,
  updatedAt: 1000,
});
const versionIn = (state: VersionState): VersionRecord => {
  const identity = {
    imageArn: 'arn',
    imageName: 'demo',
    version: '2.0',
    config,
    buildId: 'b',
    createdAt: 1000,
    updatedAt: 1000,
  };
  return state === 'SUCCESSFUL' ? { ...identity, state, status: 'ACTIVE' } : { ...identity, state };
};
const buildIn = (state: BuildState): BuildRecord => {
  const identity = { buildId: 'b', imageArn: 'arn', version: '2.0', chipsetGeneration: '4', createdAt: 1000 };
  if (state === 'SUCCESSFUL') return { ...identity, state, sizes };
  return state === 'FAILED' ? { ...identity, state, reason: 'r', codeBytes: null } : { ...identity, state };
};

test('images, versions and builds move exactly where their tables say', () => {
  for (const event of events) {
    for (const state of Object.keys(IMAGE_TRANSITIONS) as ImageState[]) {
      const after = imageAfter(imageIn(state), '2.0', event, AT);
      assert.equal(after?.state ?? null, IMAGE_TRANSITIONS[state][event.type], `image ${state} ${event.type}`);
    }
    for (const state of Object.keys(VERSION_TRANSITIONS) as VersionState[]) {
      const after = versionAfter(versionIn(state), event, AT);
      assert.equal(after?.state ?? null, VERSION_TRANSITIONS[state][event.type], `version ${state} ${event.type}`);
    }
    for (const state of Object.keys(BUILD_TRANSITIONS) as BuildState[]) {
      const after = buildAfter(buildIn(state), event);
      assert.equal(after?.state ?? null, BUILD_TRANSITIONS[state][event.type], `build ${state} ${event.type}`);
    }
  }
});

test('damage fails what had succeeded and nothing else', () => {
  for (const state of Object.keys(VERSION_TRANSITIONS) as VersionState[]) {
    const after = versionAfter(versionIn(state), damaged, AT)?.state ?? null;
    assert.equal(after, state === 'SUCCESSFUL' ? 'FAILED' : null, `version ${state}`);
    assert.equal(after, VERSION_TRANSITIONS[state].damaged);
  }
  for (const state of Object.keys(BUILD_TRANSITIONS) as BuildState[]) {
    const after = buildAfter(buildIn(state), damaged)?.state ?? null;
    assert.equal(after, state === 'SUCCESSFUL' ? 'FAILED' : null, `build ${state}`);
    assert.equal(after, BUILD_TRANSITIONS[state].damaged);
  }
});

test('a success makes the version ACTIVE and the image point at it', () => {
  const version = versionAfter(versionIn('IN_PROGRESS'), { type: 'succeeded', sizes }, AT);
  assert.ok(version);
  assert.equal(statusOf(version), 'ACTIVE');
  assert.equal(version.updatedAt, AT);
  assert.equal(imageAfter(imageIn('UPDATING'), '2.0', { type: 'succeeded', sizes }, AT)?.latestActiveVersion, '2.0');
});

test('a failed update leaves the active version and names the failed one', () => {
  const image = imageAfter(imageIn('UPDATING'), '2.0', { type: 'failed', reason: 'r', codeBytes: null }, AT);
  assert.equal(image?.state, 'UPDATE_FAILED');
  assert.equal(image?.latestActiveVersion, '1.0');
  assert.equal(image?.latestFailedVersion, '2.0');
});
