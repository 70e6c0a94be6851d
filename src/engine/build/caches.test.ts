import assert from 'node:assert/strict';
import { appendFile, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, it } from 'node:test';
import { silentLogger, TestClock } from '../../lib/index.ts';
import { BuildCaches, type CacheLease, type CachesOptions } from './caches.ts';

/** Any file will do. */
const BUILDER = { key: 'builder1', cacheTemplate: import.meta.filename };
const MIB = 1024 * 1024;
/** An overlay nothing was written to. */
const EMPTY_BYTES = 4 * 65_536;

interface Bench extends AsyncDisposable {
  readonly dir: string;
  readonly clock: TestClock;
  open(options?: Partial<CachesOptions>): BuildCaches;
}

async function bench(): Promise<Bench> {
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-caches-'));
  const clock = new TestClock();
  return {
    dir,
    clock,
    open: (options = {}) => new BuildCaches({ dir, clock, limitBytes: 100 * MIB, log: silentLogger, ...options }),
    [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }),
  };
}

const lease = (caches: BuildCaches, owner = 'ann', builder = BUILDER) => caches.lease(owner, builder, {});
const isEmpty = async ({ disk }: CacheLease) => (await stat(disk.path)).size <= EMPTY_BYTES;

/** A build that leaves `text` in its owner's cache. */
async function build(b: Bench, caches: BuildCaches, owner: string, text: string | Buffer): Promise<void> {
  await using cache = await lease(caches, owner);
  await appendFile(cache.disk.path, text);
  await b.clock.advance(1000);
  cache.keep();
  await caches[Symbol.asyncDispose]();
}

async function filesIn(dir: string): Promise<string[]> {
  const names = await readdir(dir, { recursive: true, withFileTypes: true });
  return names.filter((entry) => entry.isFile() && entry.name !== 'owner').map((entry) => entry.name);
}

describe('a build cache', () => {
  it('begins over the template and holds what the build before it left', async () => {
    await using b = await bench();
    await using caches = b.open();
    await using first = await lease(caches);
    assert.equal(first.disk.basePath, BUILDER.cacheTemplate);
    assert.ok(await isEmpty(first));
    await appendFile(first.disk.path, 'layers');
    first.keep();
    await using second = await lease(caches);
    assert.match(await readFile(second.disk.path, 'latin1'), /layers$/);
  });

  it('of one owner is never seen by another', async () => {
    await using b = await bench();
    await using caches = b.open();
    await build(b, caches, 'ann', 'a secret');
    await using cache = await lease(caches, 'bob');
    assert.ok(await isEmpty(cache));
  });

  it('is each build’s own while two builds of its owner go on, and then that of the last to end', async () => {
    await using b = await bench();
    await using caches = b.open();
    await build(b, caches, 'ann', 'old');
    const [one, two] = await Promise.all([lease(caches), lease(caches)]);
    assert.notEqual(one.disk.path, two.disk.path);
    await appendFile(one.disk.path, ' one');
    await appendFile(two.disk.path, ' two');
    two.keep();
    one.keep();
    await using next = await lease(caches);
    assert.match(await readFile(next.disk.path, 'latin1'), /old one$/);
    assert.equal((await caches.list()).length, 1);
  });

  it('is a copy of what a machine that goes on has, which stays its own', async () => {
    await using b = await bench();
    await using caches = b.open();
    await using first = await lease(caches);
    await writeFile(path.join(first.workDir, 'context.raw'), 'x');
    await appendFile(first.disk.path, 'one');
    await (await first.keepCopy())?.copied;
    await appendFile(first.disk.path, ' more');
    await using second = await lease(caches);
    assert.match(await readFile(second.disk.path, 'latin1'), /one$/);
    await (await first.keepCopy())?.copied;
    await first[Symbol.asyncDispose]();
    await second[Symbol.asyncDispose]();
    assert.deepEqual((await filesIn(b.dir)).length, 1);
    await using third = await lease(caches);
    assert.match(await readFile(third.disk.path, 'latin1'), /one more$/);
  });

  it('is not copied when it is large, or nothing is kept', async () => {
    await using b = await bench();
    for (const options of [{ maxCopiedBytes: 4096 }, { limitBytes: 0 }]) {
      await using caches = b.open(options);
      await using large = await lease(caches);
      await appendFile(large.disk.path, Buffer.alloc(MIB, 1));
      assert.equal(await large.keepCopy(), undefined);
    }
  });

  it('stays as it was when its build fails or is called off', async () => {
    await using b = await bench();
    await using caches = b.open();
    await build(b, caches, 'ann', 'old');
    {
      await using failing = await lease(caches);
      await appendFile(failing.disk.path, ' half');
    }
    await assert.rejects(caches.lease('ann', BUILDER, { signal: AbortSignal.abort(new Error('called off')) }));
    assert.equal((await filesIn(b.dir)).length, 1);
    await using next = await lease(caches);
    assert.match(await readFile(next.disk.path, 'latin1'), /old$/);
  });

  it('is forgotten when a build says it could not work with it', async () => {
    await using b = await bench();
    await using caches = b.open();
    await build(b, caches, 'ann', 'cannot be mounted');
    {
      await using failing = await lease(caches);
      await failing.forget();
    }
    await using next = await lease(caches);
    assert.ok(await isEmpty(next));
  });

  it('stays as it was when the server is killed, and the next one removes what was open', async () => {
    await using b = await bench();
    const killed = b.open();
    await build(b, killed, 'ann', 'old');
    const open = await lease(killed);
    await appendFile(open.disk.path, ' half');
    await using caches = b.open();
    await caches.sweep();
    assert.equal((await filesIn(b.dir)).length, 1);
    await using next = await lease(caches);
    assert.match(await readFile(next.disk.path, 'latin1'), /old$/);
  });

  it('that is too large to copy is lent itself: its owner’s other builds begin anew meanwhile', async () => {
    await using b = await bench();
    await using caches = b.open({ maxCopiedBytes: MIB });
    await build(b, caches, 'ann', Buffer.alloc(2 * MIB, 'x'));
    {
      await using large = await lease(caches);
      assert.ok((await stat(large.disk.path)).size > 2 * MIB);
      await using other = await lease(caches);
      assert.ok(await isEmpty(other));
      large.keep();
    }
    await using next = await lease(caches);
    assert.ok((await stat(next.disk.path)).size > 2 * MIB);
  });

  it('of another builder, or of a template that was made again, is removed', async () => {
    await using b = await bench();
    await using caches = b.open();
    const cacheTemplate = path.join(b.dir, 'template');
    const remade = async () => {
      await writeFile(`${cacheTemplate}.new`, '');
      await rename(`${cacheTemplate}.new`, cacheTemplate);
    };
    await remade();
    const same = { key: 'builder3', cacheTemplate };
    for (const [before, after] of [
      [BUILDER, { ...BUILDER, key: 'builder2' }],
      [same, same],
    ] as const) {
      await using first = await lease(caches, 'ann', before);
      await appendFile(first.disk.path, 'old');
      first.keep();
      await caches[Symbol.asyncDispose]();
      await remade();
      await using cache = await lease(caches, 'ann', after);
      assert.ok(await isEmpty(cache));
      assert.deepEqual(await caches.list(), []);
    }
  });
});

describe('the result of a build', () => {
  const disk = async (b: Bench, text = 'x') => {
    const file = path.join(b.dir, 'built');
    await rm(file, { force: true });
    await writeFile(file, text);
    return file;
  };
  const record = Buffer.from('config');

  it('is found again by its owner and key alone, as another name of the same disk', async () => {
    await using b = await bench();
    await using caches = b.open();
    const built = await disk(b, 'root disk');
    await caches.keepResult('ann', 'key', { disk: built, record });
    await rm(built);
    const to = path.join(b.dir, 'linked');
    assert.equal(await caches.result('bob', 'key', to), undefined);
    assert.equal(await caches.result('ann', 'other', to), undefined);
    const found = await caches.result('ann', 'key', to);
    assert.deepEqual([found?.disk, found?.record.toString()], [to, 'config']);
    assert.equal(await readFile(to, 'utf8'), 'root disk');
    // It can be found as often as it is asked for, and be replaced.
    await rm(to);
    await caches.keepResult('ann', 'key', { disk: await disk(b, 'newer'), record });
    await caches.result('ann', 'key', to);
    assert.equal(await readFile(to, 'utf8'), 'newer');
  });

  it('is no result without its disk or its record', async () => {
    await using b = await bench();
    await using caches = b.open();
    for (const part of ['.disk', '.record']) {
      await caches.keepResult('ann', 'key', { disk: await disk(b), record });
      const [folder = ''] = (await caches.list()).map((cache) => cache.folder);
      await rm(path.join(b.dir, folder, `key${part}`));
      assert.equal(await caches.result('ann', 'key', path.join(b.dir, 'linked')), undefined);
    }
  });

  it('counts towards the bound, goes with its record, and is not kept where nothing is', async () => {
    await using b = await bench();
    await using caches = b.open({ limitBytes: 3 * MIB });
    const large = 'x'.repeat(2 * MIB);
    await caches.keepResult('ann', 'one', { disk: await disk(b, large), record });
    await b.clock.advance(1000);
    await caches.keepResult('ann', 'two', { disk: await disk(b, large), record });
    await rm(path.join(b.dir, 'built'));
    assert.deepEqual((await filesIn(b.dir)).sort(), ['two.disk', 'two.record']);
    await caches.drop();
    await b.open({ limitBytes: 0 }).keepResult('ann', 'one', { disk: await disk(b), record });
    await rm(path.join(b.dir, 'built'));
    assert.deepEqual(await readdir(b.dir), []);
  });
});

describe('the bound of all build caches', () => {
  it('is kept by removing those used least recently', async () => {
    await using b = await bench();
    await using caches = b.open({ limitBytes: 6 * MIB });
    for (const owner of ['ann', 'bob', 'ann', 'cid']) await build(b, caches, owner, Buffer.alloc(MIB, 'x'));
    // ann has 2 MiB by now and was used after bob.
    await build(b, caches, 'dan', Buffer.alloc(2 * MIB, 'x'));
    assert.equal((await caches.list()).length, 3);
    await using bob = await lease(caches, 'bob');
    assert.ok(await isEmpty(bob));
    await using ann = await lease(caches, 'ann');
    assert.ok(!(await isEmpty(ann)));
  });

  it('holds for a single one, and for what an earlier server with a larger bound left', async () => {
    await using b = await bench();
    await using caches = b.open({ limitBytes: MIB });
    await build(b, caches, 'ann', Buffer.alloc(2 * MIB, 'x'));
    assert.deepEqual(await filesIn(b.dir), []);
    await build(b, b.open(), 'ann', Buffer.alloc(2 * MIB, 'x'));
    await caches.sweep();
    assert.deepEqual(await readdir(b.dir), []);
  });

  it('of nothing keeps nothing', async () => {
    await using b = await bench();
    await using caches = b.open({ limitBytes: 0 });
    await build(b, caches, 'ann', 'layers');
    await caches[Symbol.asyncDispose]();
    assert.deepEqual(await filesIn(b.dir), []);
  });

  it('can be emptied, while builds go on', async () => {
    await using b = await bench();
    await using caches = b.open();
    await build(b, caches, 'ann', Buffer.alloc(MIB, 'x'));
    await using cache = await lease(caches);
    const freed = await caches.drop();
    assert.ok(freed >= MIB, String(freed));
    assert.deepEqual(await caches.list(), []);
    assert.ok((await stat(cache.disk.path)).size > MIB);
  });
});

it('a cache that cannot be kept costs the build nothing', async () => {
  await using b = await bench();
  await using caches = b.open();
  await using cache = await lease(caches);
  await rm(cache.disk.path);
  cache.keep();
  await caches[Symbol.asyncDispose]();
  await writeFile(path.join(b.dir, 'stray'), '');
  assert.deepEqual(await caches.list(), []);
});
