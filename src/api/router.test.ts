import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lambdaCore } from '../../spec/lambda-core.ts';
import { lambdaMicrovms } from '../../spec/lambda-microvms.ts';
import { Router } from './router.ts';
import { WireError } from './wire-error.ts';

const router = new Router([lambdaMicrovms, lambdaCore]);
const arn = 'arn:aws:lambda:us-east-1:000000000000:microvm-image:demo';

function found(method: string, path: string) {
  const match = router.find(method, path);
  return match && { name: match.name, labels: match.labels };
}

test('every operation of both tables is found by its own method and path', () => {
  for (const service of [lambdaMicrovms, lambdaCore]) {
    for (const [name, { method, uri }] of Object.entries(service.operations)) {
      assert.equal(found(method, uri.replace(/\{\w+\}/g, 'x'))?.name, name);
    }
  }
});

test('labels are percent-decoded and raw colons pass', () => {
  for (const sent of [encodeURIComponent(arn), arn]) {
    assert.deepEqual(found('GET', `/2025-09-09/microvm-images/${sent}/versions/1.0/builds/b`), {
      name: 'GetMicrovmImageBuild',
      labels: { imageIdentifier: arn, imageVersion: '1.0', buildId: 'b' },
    });
  }
});

test('an encoded slash stays inside its label, a raw one does not', () => {
  assert.equal(found('GET', '/2025-09-09/microvms/a%2Fsuspend')?.labels.microvmIdentifier, 'a/suspend');
  assert.equal(found('GET', '/2025-09-09/microvms/a/b'), undefined);
});

test('other methods, other paths and empty labels are nobody', () => {
  assert.equal(found('PATCH', '/2025-09-09/microvms'), undefined);
  assert.equal(found('GET', '/'), undefined);
  assert.equal(found('GET', '/2025-09-09/microvms/'), undefined);
  assert.equal(found('GET', '/2015-03-31/functions'), undefined);
});

test('bad percent encoding is refused', () => {
  assert.throws(() => router.find('GET', '/2025-09-09/microvms/%zz'), WireError);
});
