import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createIdentity } from './index.ts';

const account = '000000000000';
const identity = createIdentity({ account, rootKeys: [{ accessKeyId: 'AKID', secretAccessKey: 'secret' }] });

test("a configured key belongs to the account's root, any other key to nobody", () => {
  assert.equal(identity.authenticate('AKID')?.principal.arn, 'arn:aws:iam::000000000000:root');
  assert.equal(identity.authenticate('AKID')?.secretAccessKey, 'secret');
  assert.equal(identity.authenticate('akid'), undefined);
  assert.equal(identity.authenticate('constructor'), undefined);
});

test('root may do everything', () => {
  assert.deepEqual(identity.authorize(identity.root, 'lambda:RunMicrovm', '*'), { allowed: true });
});
