import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { TrustStatement } from './roles-file.ts';
import { trusts } from './trust.ts';

const LAMBDA = ['lambda.amazonaws.com'];
const user = (name: string) => `arn:aws:iam::000000000000:user/${name}`;
const ROOT = 'arn:aws:iam::000000000000:root';
const SESSION = 'arn:aws:sts::000000000000:assumed-role/deployer/rekindle';

/** [trust, who, whether] */
const GRID: readonly (readonly [readonly TrustStatement[] | null, string | undefined, boolean])[] = [
  [null, user('ann'), true],
  [null, ROOT, true],
  [null, undefined, true],
  [[], user('ann'), false],
  [[], ROOT, false],
  [[{ principals: [user('ann')], services: LAMBDA }], user('ann'), true],
  [[{ principals: [user('ann')], services: LAMBDA }], user('anna'), false],
  [[{ principals: [user('ann')], services: LAMBDA }], ROOT, false],
  [[{ principals: [user('ann')], services: LAMBDA }], undefined, false],
  [[{ principals: ['*'], services: LAMBDA }], undefined, false],
  [[{ principals: ['*'], services: LAMBDA }], ROOT, true],
  [[{ principals: [user('ci-*')], services: LAMBDA }], user('ci-7'), true],
  [[{ principals: [user('ci-*')], services: LAMBDA }], user('cx-7'), false],
  [[{ principals: [user('ci-?')], services: LAMBDA }], user('ci-77'), false],
  [[{ principals: [user('*')], services: LAMBDA }], SESSION, false],
  [[{ principals: ['arn:aws:sts::*:assumed-role/deployer/*'], services: LAMBDA }], SESSION, true],
  [[{ principals: [user('ann')], services: ['ec2.amazonaws.com'] }], user('ann'), false],
  [[{ principals: [user('ann')], services: ['*.amazonaws.com'] }], user('ann'), true],
  [[{ principals: [user('ann')], services: [] }], user('ann'), false],
  [
    [
      { principals: [user('ann')], services: ['ec2.amazonaws.com'] },
      { principals: [user('bob')], services: LAMBDA },
    ],
    user('ann'),
    false,
  ],
  [
    [
      { principals: [user('ann')], services: LAMBDA },
      { principals: [user('bob')], services: LAMBDA },
    ],
    user('bob'),
    true,
  ],
  // A principal's name is text, never a pattern or variable.
  [[{ principals: [user('$' + '{aws:username}')], services: LAMBDA }], user('ann'), false],
];

for (const [index, [trust, principal, expected]] of GRID.entries()) {
  const who = principal ?? 'somebody unknown';
  test(`trust ${index}: ${JSON.stringify(trust)} ${expected ? 'covers' : 'does not cover'} ${who}`, () => {
    assert.equal(trusts(trust, principal), expected);
  });
}
