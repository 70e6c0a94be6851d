/** The rounds of the chaos command in which something was found are played again: `bench/chaos/found.ts`. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { FOUND } from '../../bench/chaos/found.ts';
import { playRound } from '../../bench/chaos/round.ts';
import { World } from '../../bench/chaos/world.ts';
import { type SmallDisk, smallDisk } from '../support/small-disk.ts';

const DISK_MIB = 8192;

const skip =
  process.env.REKINDLE_LONG_TESTS === undefined
    ? 'takes minutes: REKINDLE_LONG_TESTS=1 runs it'
    : process.getuid?.() !== 0 && 'needs root: a small disk is mounted';

describe('a server under attack', { skip }, () => {
  let disk: SmallDisk;
  let world: World;

  before(async () => {
    disk = await smallDisk(DISK_MIB);
    world = await World.create(disk);
  });
  after(async () => {
    await world?.[Symbol.asyncDispose]();
    await disk?.[Symbol.asyncDispose]();
  });

  for (const { what, ...round } of FOUND) {
    test(`not again: ${what} (seed ${round.seed}, round ${round.round})`, async () => {
      const { objections } = await playRound(world, { ...round, wakesAll: true });
      assert.deepEqual(objections, [], world.log());
    });
  }

  test('and nothing outlives it', async () => {
    assert.deepEqual(await world.end(), []);
  });
});
