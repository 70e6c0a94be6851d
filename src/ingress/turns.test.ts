import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { TestClock } from '../lib/index.ts';
import { Turn, Turns } from './turns.ts';

const NEVER = new AbortController().signal;

/** All the turns there are. */
async function allTaken(turns: Turns<string>): Promise<Turn[]> {
  const taken: Turn[] = [];
  for (let i = 0; i < 16; i++) {
    const got = await turns.next(NEVER);
    assert.ok(got instanceof Turn);
    taken.push(got);
  }
  return taken;
}

/** What was got, in the order of getting it. */
function line(turns: Turns<string>, names: readonly string[], signal = NEVER): string[] {
  const served: string[] = [];
  for (const name of names) {
    turns.next(signal).then(
      (got) => served.push(got instanceof Turn ? name : `${name}: ${got}`),
      (error: Error) => served.push(`${name}: ${error.message}`),
    );
  }
  return served;
}

test('who finds all turns taken waits for the first that ends, in the order of asking', async () => {
  using turns = new Turns<string>(new TestClock());
  const taken = await allTaken(turns);
  const served = line(turns, ['first', 'second', 'third']);
  await setImmediate();
  assert.deepEqual(served, []);
  taken[3]?.[Symbol.dispose]();
  taken[3]?.[Symbol.dispose]();
  await setImmediate();
  assert.deepEqual(served, ['first']);
  assert.equal(turns.offer('a kept one'), true);
  taken[5]?.[Symbol.dispose]();
  await setImmediate();
  assert.deepEqual(served, ['first', 'second: a kept one', 'third']);
  assert.equal(turns.offer('another'), false);
});

test('who stops waiting takes nothing from the others', async () => {
  using turns = new Turns<string>(new TestClock());
  const [one] = await allTaken(turns);
  const leaver = new AbortController();
  const left = line(turns, ['leaver'], leaver.signal);
  const served = line(turns, ['stayer']);
  leaver.abort(new Error('gone'));
  one?.[Symbol.dispose]();
  await setImmediate();
  assert.deepEqual([left, served], [['leaver: gone'], ['stayer']]);
});

test('a connection in which an app stays silent counts for as long as suits the guest, one that is being opened for ever', async () => {
  for (const { openedMs, lastsMs } of [
    { openedMs: 1, lastsMs: 100 },
    { openedMs: 20, lastsMs: 400 },
    { openedMs: 5000, lastsMs: 1000 },
  ]) {
    const clock = new TestClock();
    using turns = new Turns<string>(clock);
    const [silent] = await allTaken(turns);
    const served = line(turns, ['next']);
    await clock.advance(openedMs);
    silent?.opened();
    await clock.advance(lastsMs - 1);
    assert.deepEqual(served, []);
    await clock.advance(100);
    assert.deepEqual(served, ['next'], `opened in ${openedMs} ms`);
    await clock.advance(600_000);
    assert.deepEqual(line(turns, ['another']), []);
  }
});

test('who waits behind an app that accepts nobody is told so after two minutes, those that came later after them', async () => {
  const clock = new TestClock();
  using turns = new Turns<string>(clock);
  await allTaken(turns);
  const served = line(turns, ['first']);
  await clock.advance(60_000);
  const later = line(turns, ['later']);
  await clock.advance(59_900);
  assert.deepEqual(served, []);
  await clock.advance(200);
  assert.deepEqual([served, later], [['first: the app left no turn to connect to it'], []]);
  await clock.advance(60_000);
  assert.deepEqual(later, ['later: the app left no turn to connect to it']);
});

test('who waits for a machine that is gone is told so', async () => {
  const turns = new Turns<string>(new TestClock());
  await allTaken(turns);
  const served = line(turns, ['first', 'second']);
  turns[Symbol.dispose]();
  await setImmediate();
  assert.deepEqual(served, ['first: the machine is gone', 'second: the machine is gone']);
});
