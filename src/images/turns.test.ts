import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Turns } from './turns.ts';

const never = new AbortController().signal;

/** Asks for all of them at once and ends each as soon as it has begun; gives back the order. */
async function orderOf(asked: readonly string[], slots = 1): Promise<string[]> {
  const turns = new Turns(slots);
  const order: string[] = [];
  await Promise.all(
    asked.map(async (name) => {
      using _slot = await turns.acquire(name.slice(0, 1), { signal: never });
      order.push(name);
    }),
  );
  return order;
}

test('who asks for one does not wait for all of who asked for many', async () => {
  assert.deepEqual(await orderOf(['a1', 'a2', 'a3', 'a4', 'b1', 'c1']), ['a1', 'b1', 'c1', 'a2', 'a3', 'a4']);
  assert.deepEqual(await orderOf(['a1', 'a2', 'a3', 'b1', 'b2', 'b3']), ['a1', 'b1', 'a2', 'b2', 'a3', 'b3']);
});

test('builds of one owner keep their order', async () => {
  assert.deepEqual(await orderOf(['a1', 'a2', 'a3']), ['a1', 'a2', 'a3']);
});

test('who has the fewest under way comes first', async () => {
  const turns = new Turns(2);
  const begun: string[] = [];
  const ask = async (name: string) => {
    const slot = await turns.acquire(name.slice(0, 1), { signal: never });
    begun.push(name);
    return slot;
  };
  const b1 = await ask('b1');
  await ask('a1');
  const waiting = [ask('a2'), ask('b2')];
  b1[Symbol.dispose]();
  await Promise.any(waiting);
  assert.deepEqual(begun, ['b1', 'a1', 'b2']);
});

test('who stops waiting is passed over, and a slot given back twice is one slot', async () => {
  const turns = new Turns(1);
  const first = await turns.acquire('a', { signal: never });
  const gone = new AbortController();
  const given = turns.acquire('b', { signal: gone.signal });
  const next = turns.acquire('c', { signal: never });
  gone.abort(new Error('deleted'));
  await assert.rejects(given, { message: 'deleted' });
  await assert.rejects(turns.acquire('b', { signal: gone.signal }), { message: 'deleted' });
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  await next;
  const late = new AbortController();
  const more = turns.acquire('d', { signal: late.signal });
  late.abort(new Error('still waiting'));
  await assert.rejects(more, { message: 'still waiting' });
});
