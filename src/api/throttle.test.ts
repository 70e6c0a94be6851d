import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lambdaCore } from '../../spec/lambda-core.ts';
import { lambdaMicrovms } from '../../spec/lambda-microvms.ts';
import { DomainError, TestClock } from '../lib/index.ts';
import { toWireError } from './errors.ts';
import { Throttle } from './throttle.ts';

function refusalOf(work: () => void): DomainError {
  try {
    work();
  } catch (error) {
    assert.ok(error instanceof DomainError);
    return error;
  }
  assert.fail('it was let through');
}

test('a burst gets through, then as many as the rate says, for each principal and operation by itself', async () => {
  const clock = new TestClock();
  const throttle = new Throttle(
    { RunMicrovm: { perSecond: 2, burst: 3 }, GetMicrovm: { perSecond: 1, burst: 1 } },
    clock,
  );
  for (let i = 0; i < 3; i++) throttle.take('a', 'RunMicrovm');
  assert.equal(refusalOf(() => throttle.take('a', 'RunMicrovm')).code, 'THROTTLED');
  throttle.take('b', 'RunMicrovm');
  throttle.take('a', 'GetMicrovm');
  for (let i = 0; i < 100; i++) throttle.take('a', 'ListMicrovms');
  await clock.advance(500);
  throttle.take('a', 'RunMicrovm');
  refusalOf(() => throttle.take('a', 'RunMicrovm'));
  await clock.advance(60_000);
  for (let i = 0; i < 3; i++) throttle.take('a', 'RunMicrovm');
  refusalOf(() => throttle.take('a', 'RunMicrovm'));
});

test('a refusal names the wait, which is then long enough', async () => {
  const clock = new TestClock();
  const throttle = new Throttle({ RunMicrovm: { perSecond: 0.25, burst: 1 } }, clock);
  throttle.take('a', 'RunMicrovm');
  const seconds = Number(refusalOf(() => throttle.take('a', 'RunMicrovm')).details.retryAfterSeconds);
  assert.equal(seconds, 4);
  await clock.advance(seconds * 1000);
  throttle.take('a', 'RunMicrovm');
});

test('each family words a throttle in its own shape, with Retry-After where the model has it', () => {
  const throttle = new Throttle({ RunMicrovm: { perSecond: 1, burst: 0 } }, new TestClock());
  const refusal = refusalOf(() => throttle.take('a', 'RunMicrovm'));
  const requestId = 'request-1';
  const run = { service: lambdaMicrovms, operation: lambdaMicrovms.operations.RunMicrovm, requestId };
  const microvms = toWireError(refusal, run).error;
  assert.deepEqual(
    [microvms.type, microvms.status, microvms.headers],
    ['ThrottlingException', 429, { 'Retry-After': '1' }],
  );
  assert.deepEqual(microvms.body, { message: 'Rate exceeded', serviceCode: null, quotaCode: null });
  const get = { service: lambdaCore, operation: lambdaCore.operations.GetNetworkConnector, requestId };
  const connectors = toWireError(refusal, get).error;
  assert.deepEqual([connectors.type, connectors.status], ['TooManyRequestsException', 429]);
  assert.deepEqual(connectors.headers, { 'Retry-After': '1' });
  assert.deepEqual(connectors.body, { message: 'Rate exceeded', Reason: 'CallerRateLimitExceeded' });
});
