import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { silentLogger, TestClock } from '../../lib/index.ts';
import type { Stay } from '../engine.ts';
import { type BuildSession, KeptBuilder } from './kept-builder.ts';

interface Kept {
  readonly session: BuildSession;
  readonly stay: Stay;
  isEnded: boolean;
  isLent: boolean;
  die(): void;
  giveUp(): void;
}

/** A machine of `owner` that may be kept for a minute. */
function machine(owner: string): Kept {
  const exited = Promise.withResolvers<void>();
  const kept: Kept = {
    isEnded: false,
    isLent: false,
    die: exited.resolve,
    giveUp: () => assert.fail('nothing was lent'),
    // What of a session is not used here is not there.
    session: {
      owner,
      key: 'builder',
      machine: { exited: exited.promise },
      [Symbol.asyncDispose]: async () => {
        kept.isEnded = true;
      },
    } as unknown as BuildSession,
    stay: {
      forMs: 60_000,
      lend: (giveUp) => {
        kept.isLent = true;
        kept.giveUp = giveUp;
        return { [Symbol.dispose]: () => (kept.isLent = false) };
      },
    },
  };
  return kept;
}

function bench() {
  const clock = new TestClock();
  const builder = new KeptBuilder({ clock, log: silentLogger });
  const keep = (kept: Kept, copied: Promise<void> = Promise.resolve()) => builder.keep(kept.session, copied, kept.stay);
  return { clock, builder, keep };
}

describe('the builder that is kept', () => {
  it('is for its owner only, once, and for the same builder', async () => {
    const { builder, keep } = bench();
    const anns = machine('ann');
    keep(anns);
    assert.equal(await builder.take('bob', 'builder'), undefined);
    assert.equal(await builder.take('ann', 'another'), undefined);
    assert.equal(await builder.take('ann', 'builder'), anns.session);
    assert.equal(await builder.take('ann', 'builder'), undefined);
    await builder[Symbol.asyncDispose]();
    assert.deepEqual([anns.isEnded, anns.isLent], [false, false]);
  });

  it('does not run while its cache is copied', async () => {
    const { builder, keep } = bench();
    const copied = Promise.withResolvers<void>();
    keep(machine('ann'), copied.promise);
    let isTaken = false;
    const taking = builder.take('ann', 'builder').then(() => {
      isTaken = true;
    });
    await setImmediate();
    assert.equal(isTaken, false);
    copied.resolve();
    await taking;
  });

  const ends: [string, (kept: Kept, b: ReturnType<typeof bench>) => unknown][] = [
    ['its time is over', (_, { clock }) => clock.advance(60_000)],
    ['its room is wanted', (kept) => kept.giveUp()],
    ['it dies', (kept) => kept.die()],
    ['another takes its place', (_, { keep }) => keep(machine('bob'))],
    ['the caches are dropped', (_, { builder }) => builder.end()],
    ['the engine is closed', (_, { builder }) => builder[Symbol.asyncDispose]()],
  ];
  for (const [when, happens] of ends) {
    it(`is ended when ${when}`, async () => {
      const b = bench();
      const kept = machine('ann');
      b.keep(kept);
      await b.clock.advance(59_999);
      assert.deepEqual([kept.isEnded, kept.isLent], [false, true]);
      await happens(kept, b);
      await setImmediate();
      assert.deepEqual([kept.isEnded, kept.isLent], [true, false]);
      assert.equal(await b.builder.take('ann', 'builder'), undefined);
    });
  }

  it('is ended at once by an engine that is closed already', async () => {
    const { builder, keep } = bench();
    await builder[Symbol.asyncDispose]();
    const late = machine('ann');
    keep(late);
    await builder.end();
    assert.equal(late.isEnded, true);
  });
});
