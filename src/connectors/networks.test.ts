import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { silentLogger, TestClock } from '../lib/index.ts';
import { openNetworks } from './networks.ts';

interface Bench extends AsyncDisposable {
  readonly file: string;
  readonly clock: TestClock;
  readonly errors: string[];
  open(): ReturnType<typeof openNetworks>;
  /** Writes the file and waits until a look at it had its effect, or found it as before. */
  write(content: string): Promise<void>;
}

async function bench(): Promise<Bench> {
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-networks-'));
  const file = path.join(dir, 'networks.json');
  const clock = new TestClock();
  const errors: string[] = [];
  const log = { ...silentLogger, error: (_fields: object, message: string) => void errors.push(message) };
  return {
    file,
    clock,
    errors,
    open: () => openNetworks({ file, defaultEgress: undefined, clock, log }),
    write: (content) => writeFile(file, content),
    [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }),
  };
}

/** Lets looks happen until `done`, each a poll later. */
async function until(clock: TestClock, done: () => boolean): Promise<void> {
  for (let i = 0; i < 1000 && !done(); i++) await clock.advance(2000);
  assert.ok(done());
}

test('a changed file is read again and listeners are told; a wrong one keeps what was before', async () => {
  await using b = await bench();
  await b.write('{"subnets":{"subnet-a":{}}}');
  using networks = await b.open();
  assert.ok(networks.current().subnets.has('subnet-a'));
  let changes = 0;
  using _listening = networks.onChange(() => changes++);
  await b.write('{"subnets":{"subnet-bb":{}}}');
  await until(b.clock, () => changes === 1);
  assert.ok(networks.current().subnets.has('subnet-bb'));
  await b.write('{"subnets":');
  await until(b.clock, () => b.errors.length === 1);
  assert.ok(networks.current().subnets.has('subnet-bb'));
  await rm(b.file);
  await until(b.clock, () => b.errors.length === 2);
  assert.ok(networks.current().subnets.has('subnet-bb'));
  await b.write('{"subnets":{"subnet-c":{}}}');
  await until(b.clock, () => changes === 2);
  assert.ok(networks.current().subnets.has('subnet-c'));
  assert.deepEqual(b.errors.length, 2, 'what is wrong is said once');
});

test('a server does not start on a file that is wrong or missing', async () => {
  await using b = await bench();
  await assert.rejects(b.open(), { code: 'INVALID', message: /networks file cannot be read: ENOENT/ });
  await b.write('{"dns":"none"}');
  await assert.rejects(b.open(), { code: 'INVALID', message: /dns must be a list/ });
});

test('without a file there are no networks, and the setting alone says what the default is', async () => {
  const clock = new TestClock();
  using networks = await openNetworks({ file: undefined, defaultEgress: 'deny', clock, log: silentLogger });
  assert.deepEqual(
    [networks.current().defaultEgress, [...networks.current().subnets.keys()]],
    ['deny', ['subnet-00000000']],
  );
});
