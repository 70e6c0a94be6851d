import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lambdaCore } from '../../spec/lambda-core.ts';
import { lambdaMicrovms } from '../../spec/lambda-microvms.ts';
import type { Operation, Service } from '../../spec/shape.ts';
import { DomainError, type DomainErrorCode } from '../lib/index.ts';
import { modelledError, toWireError } from './errors.ts';

const codes = ['NOT_FOUND', 'CONFLICT', 'INVALID', 'DENIED', 'QUOTA', 'CAPACITY', 'THROTTLED'] as const;
codes satisfies readonly DomainErrorCode[];
const services: readonly Service[] = [lambdaMicrovms, lambdaCore];
const operations = services.flatMap((service) =>
  Object.entries(service.operations).map(([name, operation]) => ({ service, name, operation })),
);

function wire(service: Service, operation: Operation, thrown: unknown) {
  return toWireError(thrown, { service, operation, requestId: 'request-1' });
}

test('no operation answers an error its table does not list, whatever the domain throws', () => {
  for (const { service, name, operation } of operations) {
    for (const code of codes) {
      const { error, isBug } = wire(service, operation, new DomainError(code, 'a sentence'));
      const isListed = operation.errors.includes(error.type) || error.type === 'AccessDeniedException';
      assert.ok(isListed, `${name} answers ${code} with ${error.type}`);
      if (code !== 'CAPACITY') assert.equal(isBug, error.status >= 500, `${name} takes ${code} for a bug`);
    }
  }
});

test('what is no refusal is a 500 that names the request and nothing else', () => {
  for (const { service, operation } of operations) {
    const { error, isBug } = wire(service, operation, new Error('secret path /root'));
    assert.ok(isBug);
    assert.equal(error.status, 500);
    assert.match(JSON.stringify(error.body), /request-1/);
    assert.doesNotMatch(JSON.stringify(error.body), /secret/);
  }
});

test('members of errors are written as each service does: with nulls, or left out', () => {
  const missing = new DomainError('NOT_FOUND', 'gone');
  const { GetMicrovm, RunMicrovm } = lambdaMicrovms.operations;
  assert.deepEqual(wire(lambdaMicrovms, GetMicrovm, missing).error.body, {
    message: 'gone',
    resourceId: null,
    resourceType: null,
  });
  assert.deepEqual(wire(lambdaCore, lambdaCore.operations.GetNetworkConnector, missing).error.body, {
    Message: 'gone',
  });
  const quota = wire(lambdaMicrovms, RunMicrovm, new DomainError('QUOTA', 'full')).error;
  assert.equal(quota.status, 402);
  assert.deepEqual(quota.body, {
    message: 'full',
    resourceId: null,
    resourceType: null,
    serviceCode: null,
    quotaCode: null,
  });
});

test('a wait travels in the Retry-After header, not in the body', () => {
  const context = { service: lambdaMicrovms, operation: lambdaMicrovms.operations.RunMicrovm };
  const error = modelledError(context, 'ThrottlingException', 'slow down', { retryAfterSeconds: 3 });
  assert.deepEqual(error?.headers, { 'Retry-After': '3' });
  assert.deepEqual(Object.keys(error?.body ?? {}), ['message', 'serviceCode', 'quotaCode']);
});

test('every throttle says when to come again, tags too', () => {
  const slow = new DomainError('THROTTLED', 'slow down');
  const { RunMicrovm, ListTags } = lambdaMicrovms.operations;
  const waits = [wire(lambdaMicrovms, RunMicrovm, slow), wire(lambdaMicrovms, ListTags, slow)];
  waits.push(wire(lambdaCore, lambdaCore.operations.ListNetworkConnectors, slow));
  for (const { error } of waits) assert.deepEqual([error.status, error.headers], [429, { 'Retry-After': '1' }]);
});
