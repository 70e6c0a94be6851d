import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Slots } from './slots.ts';

test('slots are given in the order they were asked for, and never more than there are', async () => {
  const slots = new Slots(1);
  const order: string[] = [];
  const first = await slots.acquire();
  const later = ['a', 'b'].map(async (name) => {
    using _slot = await slots.acquire();
    order.push(name);
  });
  assert.deepEqual(order, []);
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  await Promise.all(later);
  assert.deepEqual(order, ['a', 'b']);
});

test('who gives up waiting does not use up a slot', async () => {
  const slots = new Slots(1);
  const held = await slots.acquire();
  const stop = new AbortController();
  const gaveUp = slots.acquire({ signal: stop.signal });
  const next = slots.acquire();
  stop.abort(new Error('enough'));
  await assert.rejects(gaveUp, /enough/);
  held[Symbol.dispose]();
  (await next)[Symbol.dispose]();
  (await slots.acquire())[Symbol.dispose]();
});
