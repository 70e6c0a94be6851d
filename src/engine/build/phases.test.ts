import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TestClock } from '../../lib/index.ts';
import { Phases } from './phases.ts';

test('phases are told in the order of their ends, with what failed, and repeated ones together', async () => {
  const clock = new TestClock();
  const phases = new Phases(clock);
  await phases.time('fetch', () => clock.advance(1200));
  await assert.rejects(
    phases.time('solve', async () => {
      await clock.advance(300);
      throw new Error('the step failed');
    }),
  );
  await phases.time('fetch', () => clock.advance(500));
  assert.equal(String(phases), 'fetch 1.7 s, solve 0.3 s');
});
