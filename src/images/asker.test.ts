import assert from 'node:assert/strict';
import { test } from 'node:test';
import { askerOf } from './asker.ts';

test('a build is for its principal, whatever the session of a role is called, and of old for the account', () => {
  const user = 'arn:aws:iam::000000000000:user/ann';
  assert.equal(askerOf({ principal: user }, '000000000000'), user);
  const role = 'arn:aws:sts::000000000000:assumed-role/ci';
  assert.equal(askerOf({ principal: `${role}/run-1` }, '000000000000'), role);
  assert.equal(askerOf({ principal: `${role}/run/2` }, '000000000000'), role);
  assert.equal(askerOf({}, '000000000000'), '000000000000');
});
