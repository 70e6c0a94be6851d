import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createFakeEngine } from '../engine/index.ts';
import { startFakeServer } from './test-server.ts';

/** Runs the command line as a process, in an environment without anything of this user's servers. */
function rekindle(args: readonly string[]): Promise<{ exitCode: number; stdout: string; stderr: string }> {
  const { PATH = '', HOME = '' } = process.env;
  return new Promise((resolve) => {
    const main = join(import.meta.dirname, 'main.ts');
    execFile(process.execPath, [main, ...args], { env: { PATH, HOME } }, (error, stdout, stderr) => {
      resolve({ exitCode: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
    });
  });
}

test('du says what takes disk and what nobody owns; gc takes that away and says how much it was', async () => {
  await using home = await startFakeServer(async () => createFakeEngine());
  const run = (...args: string[]) => rekindle([...args, '--state', home.stateDir]);
  await run('images', 'build', join(import.meta.dirname, '../../examples/counter'), '--quiet');
  const stray = join(home.stateDir, 'images/gone/1.0');
  await mkdir(stray, { recursive: true });
  await writeFile(join(stray, 'disk'), Buffer.alloc(3_000_000, 1));

  const told = await run('du');
  assert.equal(told.exitCode, 0, told.stderr);
  assert.match(told.stdout, /^counter +1\.0 +ACTIVE /m);
  assert.match(told.stdout, /^3\.0 MB +images\/gone +no image of this name is on record/m);
  assert.match(told.stdout, /on disk \(.* with holes\); .* of the file system are free\n$/);
  const use = JSON.parse((await run('du', 'counter', '--json')).stdout);
  assert.deepEqual([use.images.length, use.microvms, use.unowned], [1, [], undefined]);
  assert.match((await run('du', 'nothing')).stderr, /not found/);

  assert.match((await run('images', 'gc', '--dry-run')).stdout, /3\.0 MB would be freed \(--dry-run\)\n$/);
  const done = JSON.parse((await run('images', 'gc', '--keep', '1', '--json')).stdout);
  assert.deepEqual(
    done.files.map((item: { path: string }) => item.path),
    ['images/gone'],
  );
  assert.equal((await run('images', 'gc')).stdout, 'Nothing to take away.\n');
  assert.deepEqual((await run('images', 'gc', '--keep', 'two')).exitCode, 2);
});

test('a version is exported to a file, imported by another server, and its root disk looked at', async () => {
  await using from = await startFakeServer(async () => createFakeEngine());
  await using to = await startFakeServer(async () => createFakeEngine());
  const folder = await mkdtemp(join(tmpdir(), 'rk-files-'));
  const at = (home: { stateDir: string }, ...args: string[]) => rekindle([...args, '--state', home.stateDir]);
  const file = join(folder, 'counter.rekindle');
  try {
    await at(from, 'images', 'build', join(import.meta.dirname, '../../examples/counter'), '--quiet');
    const made = await at(from, 'images', 'export', 'counter', file);
    assert.equal(made.exitCode, 0, made.stderr);
    assert.match(made.stderr, /not encrypted/);
    assert.equal((await at(from, 'images', 'export', 'counter:1.0', file)).exitCode, 2, 'the file is there already');
    assert.match((await at(from, 'images', 'export', 'counter:9.0', join(folder, 'none'))).stderr, /not found/);

    const taken = await at(to, 'images', 'import', file, '--name', 'shop');
    assert.equal(taken.exitCode, 0, taken.stderr);
    assert.match(taken.stderr, /imported as shop 1\.0[\s\S]*using the imported root disk/);
    assert.match(taken.stdout, /:microvm-image:shop\n$/);
    assert.match((await at(to, 'run', 'shop')).stdout, /^microvm-/);

    const disk = join(folder, 'disk.ext4');
    assert.equal((await at(to, 'images', 'root-disk', 'shop', disk)).exitCode, 0);
    assert.equal(await readFile(disk, 'utf8'), 'disk');

    const bytes = await readFile(file);
    const wrong = join(folder, 'wrong.rekindle');
    await writeFile(wrong, bytes.subarray(0, -1));
    const refused = await at(to, 'images', 'import', wrong);
    assert.deepEqual([refused.exitCode, refused.stdout], [1, '']);
    assert.match(refused.stderr, /cut off/);
    assert.match((await at(to, 'images', 'import', join(folder, 'no'))).stderr, /no such file/);
    assert.deepEqual(await readdir(join(to.stateDir, 'imports')), []);
    assert.deepEqual((await readdir(folder)).sort(), ['counter.rekindle', 'disk.ext4', 'wrong.rekindle']);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('a version is sealed anew in place: what sleeps wakes from the old snapshot, what is launched takes the new one', async () => {
  await using home = await startFakeServer(async () => createFakeEngine());
  const run = (...args: string[]) => rekindle([...args, '--state', home.stateDir]);
  const earlier = async () =>
    JSON.parse((await run('du', 'counter', '--json')).stdout).images[0].versions[0].earlier.bytes;
  await run('images', 'build', join(import.meta.dirname, '../../examples/counter'), '--quiet');
  const old = (await run('run', 'counter')).stdout.trim();
  await run('suspend', old);
  const done = await run('images', 'reseal', 'counter');
  assert.equal(done.stdout, 'counter:1.0 is launched from its snapshot 2 now\n', done.stderr);
  assert.ok((await earlier()) > 0);
  const young = (await run('run', 'counter')).stdout.trim();
  assert.equal((await run('resume', old)).stdout, `${old} is RUNNING\n`);
  assert.equal((await run('images', 'reseal', '--all')).stdout, '0 sealed anew, 1 fit as they are\n');
  await run('rm', old);
  await run('images', 'gc');
  assert.equal(await earlier(), 0);
  assert.equal((await run('suspend', young)).stdout, `${young} is SUSPENDED\n`);
  assert.equal((await run('resume', young)).stdout, `${young} is RUNNING\n`);
  assert.equal((await run('images', 'reseal')).exitCode, 2);
  assert.match((await run('images', 'reseal', 'counter:7.0')).stderr, /not found/);
});
