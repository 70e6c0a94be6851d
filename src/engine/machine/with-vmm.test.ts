import assert from 'node:assert/strict';
import { test } from 'node:test';
import { unless } from './with-vmm.ts';

test('an abort is heard until there is a reason not to, and not later', () => {
  const [early, late, over] = [new AbortController(), new AbortController(), new AbortController()];
  let isDeaf = false;
  const heard = unless(() => isDeaf, early.signal);
  const unheard = unless(() => isDeaf, late.signal);
  early.abort(new Error('stop'));
  isDeaf = true;
  late.abort(new Error('stop'));
  over.abort(new Error('stop'));
  assert.equal(heard?.reason, early.signal.reason);
  assert.equal(unheard?.aborted, false);
  assert.equal(unless(() => isDeaf, over.signal)?.aborted, true, 'what was over before is not begun');
});
