import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Pace } from './pace.ts';

test('a burst is free, and what is over it has to be waited for at the rate', () => {
  let now = 0;
  const pace = new Pace({ perSecond: 1000, burst: 100, now: () => now });
  assert.equal(pace.take(100), 0);
  assert.equal(pace.take(50), 50);
  now += 50;
  assert.equal(pace.take(0), 0);
  assert.equal(pace.take(1), 1);
});

test('silence earns no more than one burst', () => {
  let now = 0;
  const pace = new Pace({ perSecond: 1000, burst: 100, now: () => now });
  now += 3_600_000;
  assert.equal(pace.take(101), 1);
});
