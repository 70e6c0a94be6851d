import assert from 'node:assert/strict';
import { test } from 'node:test';
import { playMany } from './many.ts';

const { REKINDLE_SEQUENCES: asked = '2000', REKINDLE_SEED: first = '1' } = process.env;

test(`${asked} random lives from seed ${first} on keep to the model`, async () => {
  const failure = await playMany({ first: Number(first), count: Number(asked) });
  assert.equal(failure, undefined);
});
