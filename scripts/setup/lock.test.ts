import { equal, rejects } from 'node:assert/strict';
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { acquireLock } from './lock.ts';

const signal = new AbortController().signal;

describe('the lock of set-up', () => {
  test('a second set-up waits until the first is done', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'lock-'));
    const path = join(root.path, 'lock');
    const first = await acquireLock(path, { signal, onWait: () => {} });
    const waiting = Promise.withResolvers<void>();
    const second = acquireLock(path, { signal, onWait: waiting.resolve, pollMs: 1 });
    await waiting.promise;
    first[Symbol.dispose]();
    (await second)[Symbol.dispose]();
  });

  test('an abort ends the wait', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'lock-'));
    const path = join(root.path, 'lock');
    using _held = await acquireLock(path, { signal, onWait: () => {} });
    const controller = new AbortController();
    let waits = 0;
    const onWait = () => {
      waits++;
      controller.abort();
    };
    await rejects(acquireLock(path, { signal: controller.signal, onWait, pollMs: 1 }), { name: 'AbortError' });
    equal(waits, 1);
  });
});
