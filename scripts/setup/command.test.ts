import { equal, rejects } from 'node:assert/strict';
import { mkdtempDisposable, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { retry, run } from './command.ts';

const signal = new AbortController().signal;

describe('running programs', () => {
  test('standard output is returned and input handed over', async () => {
    equal(await run(['cat'], { signal, input: 'text' }), 'text');
  });

  test('output can go to a file as it is', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'command-'));
    const outputFile = join(root.path, 'out');
    equal(await run(['printf', 'a\\000b'], { signal, outputFile }), '');
    equal(await readFile(outputFile, 'latin1'), 'a\0b');
  });

  test('a failure names the program, its exit code and its last lines', async () => {
    await rejects(run(['sh', '-c', 'echo why >&2; exit 3'], { signal }), /^Error: sh: exit code 3\nwhy$/);
  });

  test('a program that is missing is an error, not a crash', async () => {
    await rejects(run(['/nowhere/program'], { signal }), /ENOENT/);
  });

  test('an abort ends the program with all its children', async () => {
    const controller = new AbortController();
    const running = run(['sh', '-c', 'sleep 600 & wait'], { signal: controller.signal });
    controller.abort(new Error('stop'));
    await rejects(running, /stop/);
  });
});

describe('retrying', () => {
  const say = () => {};

  test('work that fails once is done again', async () => {
    let attempts = 0;
    const work = async () => {
      attempts++;
      if (attempts === 1) throw new Error('line lost');
      return 'done';
    };
    equal(await retry('fetch', work, { signal, say, pauseMs: 0 }), 'done');
  });

  test('work that keeps failing ends with a sentence that says what to do and why', async () => {
    const work = async () => {
      throw new Error('no route');
    };
    await rejects(retry('fetch', work, { signal, say, attempts: 2, pauseMs: 0 }), /fetch failed 2 times.*\nno route/s);
  });

  test('an abort ends the retries', async () => {
    const controller = new AbortController();
    const work = async () => {
      controller.abort(new Error('stop'));
      throw new Error('no route');
    };
    await rejects(retry('fetch', work, { signal: controller.signal, say, pauseMs: 0 }), /stop/);
  });
});
