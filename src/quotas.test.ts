import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseQuotas } from './quotas.ts';

test('off limits nothing', () => {
  assert.deepEqual(parseQuotas('off', 'us-east-1'), { rates: {} });
});

test('the quotas of the service depend on the Region', () => {
  const large = parseQuotas('service', 'us-east-1');
  const other = parseQuotas('service', 'eu-west-1');
  assert.deepEqual([large?.concurrentBuilds, large?.memoryMiB], [10, 1024 * 1024]);
  assert.deepEqual([other?.concurrentBuilds, other?.memoryMiB], [5, 400 * 1024]);
  assert.deepEqual([large?.images, large?.versionsPerImage], [100, 50]);
  assert.deepEqual(large?.rates.RunMicrovm, { perSecond: 5, burst: 5 });
});

test('single quotas and rates are changed or taken away', () => {
  const quotas = parseQuotas('service,images=200,builds=off,RunMicrovm=50/100,GetMicrovm=off,ListTags=1', 'us-east-1');
  assert.deepEqual([quotas?.images, quotas?.concurrentBuilds, quotas?.versionsPerImage], [200, undefined, 50]);
  assert.deepEqual(quotas?.rates.RunMicrovm, { perSecond: 50, burst: 100 });
  assert.deepEqual(quotas?.rates.ListTags, { perSecond: 1, burst: 1 });
  assert.equal(quotas?.rates.GetMicrovm, undefined);
  assert.deepEqual(parseQuotas('off,memoryMiB=4096', 'us-east-1'), { memoryMiB: 4096, rates: {} });
});

for (const bad of [
  '',
  'on',
  'images=1',
  'service,',
  'service,toString=1',
  'off,images=1/2',
  'off,RunMicrovm=0',
  'off,images=-1',
]) {
  test(`'${bad}' is refused`, () => assert.equal(parseQuotas(bad, 'us-east-1'), undefined));
}
