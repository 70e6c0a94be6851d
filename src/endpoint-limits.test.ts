import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { connectionsOf, DEFAULT_LIMITS, KEYS, parseLimits, requestRateOf } from './endpoint-limits.ts';

test('limits are the defaults with what follows changed, in the units one writes', () => {
  assert.deepEqual(parseLimits('default'), DEFAULT_LIMITS);
  assert.deepEqual(parseLimits('default,headersSeconds=5,connections=20000,headers=50,requests=50/100'), {
    ...DEFAULT_LIMITS,
    headersMs: 5000,
    connections: 20_000,
    headerCount: 50,
    requests: { perSecond: 50, burst: 100 },
  });
  assert.deepEqual(parseLimits('default,requests=50')?.requests, { perSecond: 50, burst: 50 });
  assert.equal(parseLimits('service,requests=off')?.requests, 'off');
});

test('a microVM of each size has the connections and requests that the service gives it', () => {
  const limits = parseLimits('service');
  assert.ok(limits);
  assert.deepEqual(
    [512, 1024, 2048, 4096, 8192].map((memoryMiB) => [
      connectionsOf(limits, memoryMiB),
      requestRateOf(limits, memoryMiB)?.perSecond,
    ]),
    [
      [8, 10],
      [16, 20],
      [32, 40],
      [64, 80],
      [128, 160],
    ],
  );
  assert.equal(connectionsOf(DEFAULT_LIMITS, 512), 2000);
  assert.equal(requestRateOf(DEFAULT_LIMITS, 512), undefined);
});

test('what is not of the form, unknown or out of range is refused', () => {
  for (const text of [
    '',
    'off',
    'service,',
    'default,connections',
    'default,connections=0',
    'default,connections=off',
    'default,connections=5/5',
    'default,headerBytes=100',
    'default,headersSeconds=4000',
    'default,requests=0',
    'default,requests=0/5',
    'default,unknown=1',
    'default,constructor=1',
    'default,headersSeconds=1.5',
  ]) {
    assert.equal(parseLimits(text), undefined, text);
  }
});

test('docs/ENDPOINT.md lists every limit with its default', () => {
  const text = readFileSync(join(import.meta.dirname, '../docs/ENDPOINT.md'), 'utf8');
  const [, table = ''] = text.split('## Limits');
  const rows = [...table.matchAll(/^\| (\w+) \| (\d+|off) \| /gm)].map(([, name, value]) => [name, value]);
  assert.deepEqual(rows, [
    ...Object.entries(KEYS).map(([name, { limit, unit }]) => [name, String(Number(DEFAULT_LIMITS[limit]) / unit)]),
    ['requests', DEFAULT_LIMITS.requests],
  ]);
});
