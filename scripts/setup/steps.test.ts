import { deepEqual, equal, notEqual, rejects } from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, mkdtempDisposable, readdir, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { Steps, stampOf } from './steps.ts';

async function makeSteps(root: string, slots = 2) {
  const said: string[] = [];
  const productsDir = join(root, 'products');
  const workDir = join(root, 'work');
  await mkdir(productsDir, { recursive: true });
  const steps = new Steps({ productsDir, workDir, slots, say: (line) => void said.push(line) });
  return { steps, said, productsDir };
}

describe('steps of set-up', () => {
  test('a product is made once and then only found', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'steps-'));
    const { steps, said } = await makeSteps(root.path);
    let made = 0;
    const make = async (dir: string) => {
      made++;
      await writeFile(join(dir, 'file'), 'content');
    };
    const first = await steps.product('thing', { recipe: 1 }, make);
    const second = await steps.product('thing', { recipe: 1 }, make);
    equal(made, 1);
    deepEqual(second, first);
    equal(await readFile(join(second.dir, 'file'), 'utf8'), 'content');
    equal(said[0], 'thing ...');
    equal(said.length, 2);
  });

  test('other inputs make another product', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'steps-'));
    const { steps } = await makeSteps(root.path);
    const first = await steps.product('thing', { recipe: 1 }, async () => {});
    const second = await steps.product('thing', { recipe: 2 }, async () => {});
    notEqual(second.dir, first.dir);
  });

  test('a step that failed half way leaves no product, names itself and starts from nothing the next time', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'steps-'));
    const { steps, productsDir } = await makeSteps(root.path);
    const failing = steps.product('thing', { recipe: 1 }, async (dir) => {
      await writeFile(join(dir, 'half'), '');
      throw new Error('the network is gone');
    });
    await rejects(failing, /^Error: thing: the network is gone$/);
    deepEqual(await readdir(productsDir), []);
    const product = await steps.product('thing', { recipe: 1 }, async (dir) => {
      deepEqual(await readdir(dir), []);
    });
    equal(existsSync(product.dir), true);
  });

  test('no more steps work at a time than there are slots, and a failed one gives its slot back', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'steps-'));
    const { steps } = await makeSteps(root.path, 1);
    let working = 0;
    let most = 0;
    const step = (name: string, fails: boolean) =>
      steps.product(name, { recipe: 1 }, async () => {
        most = Math.max(most, ++working);
        await Promise.resolve();
        working--;
        if (fails) throw new Error('no');
      });
    const results = await Promise.allSettled([step('a', true), step('b', false), step('c', false)]);
    deepEqual(
      results.map((result) => result.status),
      ['rejected', 'fulfilled', 'fulfilled'],
    );
    equal(most, 1);
  });

  test('a step can make a nested product while all slots are taken', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'steps-'));
    const { steps } = await makeSteps(root.path, 1);
    let inner: string | undefined;
    await steps.product('outer', { recipe: 1 }, async () => {
      inner = (await steps.product('inner', { recipe: 1 }, async () => {}, { nested: true })).dir;
    });
    equal(existsSync(inner ?? ''), true);
  });

  test('a sweep keeps what is named and removes other products', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'steps-'));
    const { steps, productsDir } = await makeSteps(root.path);
    const old = await steps.product('thing', { recipe: 1 }, async () => {});
    const kept = await steps.product('thing', { recipe: 2 }, async () => {});
    await writeFile(join(productsDir, 'runtime.json'), '{}');
    await steps.sweep(new Set([kept.dir]));
    equal(existsSync(old.dir), false);
    equal(existsSync(kept.dir), true);
    equal(existsSync(join(productsDir, 'runtime.json')), true);
  });

  test('a stamp depends on every input', () => {
    const stamp = stampOf({ name: 'a', packages: ['b', 'c'] });
    equal(stampOf({ name: 'a', packages: ['b', 'c'] }), stamp);
    notEqual(stampOf({ name: 'a', packages: ['bc'] }), stamp);
    notEqual(stampOf({ name: 'b', packages: ['b', 'c'] }), stamp);
  });
});
