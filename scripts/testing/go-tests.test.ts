import { deepEqual, equal, match } from 'node:assert/strict';
import { describe, test } from 'node:test';
import { GoTestCounter } from './go-tests.ts';

function counted(events: object[]): GoTestCounter {
  const counter = new GoTestCounter();
  for (const event of events) counter.take(JSON.stringify(event));
  return counter;
}

describe('counting Go tests', () => {
  test('tests count, packages do not', () => {
    const counter = counted([
      { Action: 'pass', Package: 'p', Test: 'TestA' },
      { Action: 'skip', Package: 'p', Test: 'TestB' },
      { Action: 'pass', Package: 'p' },
    ]);
    deepEqual(counter.outcome, { passed: 1, failed: 0, skipped: 1 });
  });

  test('a failed test is reported with its own output and counted once', () => {
    const counter = counted([
      { Action: 'output', Package: 'p', Test: 'TestA', Output: 'why\n' },
      { Action: 'output', Package: 'p', Test: 'TestB', Output: 'other\n' },
      { Action: 'fail', Package: 'p', Test: 'TestA' },
      { Action: 'fail', Package: 'p' },
    ]);
    deepEqual(counter.outcome, { passed: 0, failed: 1, skipped: 0 });
    deepEqual(counter.failures, ['p TestA\nwhy\n']);
  });

  test('a package that does not build is a failure', () => {
    const counter = counted([
      { Action: 'output', Package: 'p', Output: 'FAIL p [build failed]\n' },
      { Action: 'fail', Package: 'p' },
    ]);
    equal(counter.outcome.failed, 1);
    match(counter.failures[0] ?? '', /build failed/);
  });

  test('lines that are no events are passed over', () => {
    const counter = new GoTestCounter();
    counter.take('# package');
    counter.take('{broken');
    deepEqual(counter.outcome, { passed: 0, failed: 0, skipped: 0 });
  });
});
