import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FOUND } from './found.ts';
import { playMany, playOne } from './many.ts';

const { REKINDLE_SEQUENCES: asked = '1000', REKINDLE_SEED: first = '1' } = process.env;

test(`${asked} random lives from seed ${first} on keep to the model`, async () => {
  const failure = await playMany({ first: Number(first), count: Number(asked) });
  assert.equal(failure, undefined);
});

for (const { what, ...sequence } of FOUND) {
  test(`not again: ${what}`, async () => {
    assert.deepEqual(await playOne(sequence), []);
  });
}
