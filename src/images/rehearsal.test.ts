import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import type { RehearseRequest } from '../engine/index.ts';
import { ARN, type Bench, bench, INPUT } from './test-bench.ts';

/** Notes what is rehearsed, and does `work`. */
function rehearsals(b: Bench, work: () => void = () => {}): RehearseRequest[] {
  const asked: RehearseRequest[] = [];
  b.engine.rehearse = async (request) => {
    asked.push(request);
    work();
  };
  return asked;
}

test('a version without a validate hook is rehearsed once, at the port of its app', async () => {
  await using b = await bench();
  const asked = rehearsals(b);
  await b.images.create(INPUT);
  await b.built();
  assert.deepEqual(
    asked.map(({ id, port }) => [id.replace(/-.*/, ''), port]),
    [['rehearsal', 8080]],
  );
});

test('the clone that is validated is rehearsal enough', async () => {
  await using b = await bench({ engine: { app: () => (_request, response) => response.end() } });
  const asked = rehearsals(b);
  await b.images.create({ ...INPUT, hooks: { port: 9000, microvmImageHooks: { validate: 'ENABLED' } } });
  await b.built();
  assert.deepEqual(asked, []);
});

test('a rehearsal that fails costs the version nothing', async () => {
  await using b = await bench();
  rehearsals(b, () => {
    throw new Error('no room');
  });
  await b.images.create(INPUT);
  assert.match(await b.built(), /done/);
  assert.equal((await b.images.get(ARN)).state, 'CREATED');
});

test('a version is there before its rehearsal is over, and a server that stops waits for that to end', async () => {
  const b = await bench();
  let isOver = false;
  b.engine.rehearse = async (_request, { signal }) => {
    await new Promise((resolve) => signal?.addEventListener('abort', resolve));
    await setTimeout(50);
    isOver = true;
  };
  await b.images.create(INPUT);
  await b.built();
  assert.equal((await b.images.get(ARN)).state, 'CREATED');
  assert.equal(isOver, false);
  await b[Symbol.asyncDispose]();
  assert.equal(isOver, true);
});
