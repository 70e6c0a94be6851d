import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, open, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { MachineError, silentLogger, TestClock } from '../../lib/index.ts';
import { digestOverlay, encodeSaved, machineFiles, readSaved, type Saved, verifySaved } from '../machine/saved.ts';
import { fakeDriver } from '../vmm/fake/fake-driver.ts';
import { digestFile } from './digest.ts';
import { Integrity, PART_NAMES } from './integrity.ts';
import { describeMachine, encodeManifest, type Manifest, readManifest } from './manifest.ts';

/** Never asked: the files are small or without holes. */
const mapper = '/bin/false';
const driver = fakeDriver();

interface Bench extends AsyncDisposable {
  readonly dir: string;
  readonly clock: TestClock;
  readonly integrity: Integrity;
  readonly manifest: Manifest;
  /** `dir: part` of each damage told. */
  readonly told: string[];
}

async function bench(): Promise<Bench> {
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-integrity-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  for (const name of PART_NAMES) await writeFile(path.join(dir, name), `the ${name}`.padEnd(1.5 * 2 ** 20, name));
  const digest = (name: string) => digestFile(path.join(dir, name), { mapper });
  const manifest: Manifest = {
    ...describeMachine(driver),
    runtimeStamp: 'stamp',
    kernelRelease: '6',
    memoryMiB: 2048,
    cpus: 1,
    network: 'none',
    link: { generation: 1, secret: 'a'.repeat(64) },
    container: null,
    built: null,
    parts: {
      ram: await digest('ram'),
      state: await digest('state'),
      disk: await digest('disk'),
      changes: await digest('changes'),
    },
  };
  await writeFile(path.join(dir, 'manifest.json'), encodeManifest(manifest));
  const clock = new TestClock();
  const integrity = stack.use(new Integrity({ mapper, clock, log: silentLogger }));
  const told: string[] = [];
  integrity.watch((damage) => told.push(`${path.basename(damage.snapshotDir)}: ${damage.part}`));
  const owned = stack.move();
  return { dir, clock, integrity, manifest, told, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function flip(file: string, at: number): Promise<void> {
  await chmod(file, 0o600);
  await using handle = await open(file, 'r+');
  const byte = Buffer.alloc(1);
  await handle.read(byte, 0, 1, at);
  byte[0] = (byte[0] ?? 0) ^ 4;
  await handle.write(byte, 0, 1, at);
}

test('a snapshot that is as it was sealed passes, again and again', async () => {
  await using b = await bench();
  await b.integrity.verify(b.dir, b.manifest.parts);
  await b.integrity.verify(b.dir, b.manifest.parts);
  assert.deepEqual(b.told, []);
});

for (const part of PART_NAMES) {
  test(`one flipped byte in ${part} is found and told, before the first launch and between two`, async () => {
    await using b = await bench();
    const damaged = { kind: 'corrupt', message: new RegExp(`its ${part} is not as it was written`) };
    await flip(path.join(b.dir, part), 1_200_000);
    await assert.rejects(b.integrity.verify(b.dir, b.manifest.parts), damaged);
    await flip(path.join(b.dir, part), 1_200_000);
    await b.integrity.verify(b.dir, b.manifest.parts);
    await flip(path.join(b.dir, part), 3);
    await assert.rejects(b.integrity.verify(b.dir, b.manifest.parts), damaged);
    assert.deepEqual(b.told, [`${path.basename(b.dir)}: ${part}`, `${path.basename(b.dir)}: ${part}`]);
  });
}

test('a write that hides behind an old modification time is found: the change time cannot be set', async () => {
  await using b = await bench();
  const file = path.join(b.dir, 'ram');
  await b.integrity.verify(b.dir, b.manifest.parts);
  const { atime, mtime } = await stat(file);
  await flip(file, 0);
  await utimes(file, atime, mtime);
  await assert.rejects(b.integrity.verify(b.dir, b.manifest.parts), { kind: 'corrupt' });
});

test('a part that is gone or cut is damage too', async () => {
  await using b = await bench();
  await writeFile(path.join(b.dir, 'state'), 'short');
  await assert.rejects(b.integrity.verify(b.dir, b.manifest.parts), { kind: 'corrupt', message: /its state/ });
  await rm(path.join(b.dir, 'state'));
  await assert.rejects(b.integrity.verify(b.dir, b.manifest.parts), { kind: 'corrupt', message: /its state/ });
});

test('what was sealed by this server is not read again for its first launch', async () => {
  await using b = await bench();
  await b.integrity.trust(b.dir, b.manifest.parts);
  // A mapping or the medium may change what a file holds and leave its identity: only the scrub finds that.
  const claimed = { ...b.manifest.parts, ram: { ...b.manifest.parts.ram, sha256: '0'.repeat(64) } };
  await assert.rejects(b.integrity.verify(b.dir, claimed), { kind: 'corrupt' });
  await b.integrity.trust(b.dir, claimed);
  await b.integrity.verify(b.dir, claimed);
});

test('the scrub reads what is in use once a day and tells of damage an identity does not show', async () => {
  await using b = await bench();
  const claimed = { ...b.manifest.parts, disk: { ...b.manifest.parts.disk, sha256: '0'.repeat(64) } };
  await b.integrity.trust(b.dir, claimed);
  await b.integrity.scrub();
  assert.deepEqual(b.told, [], 'it is not due yet');
  await b.clock.advance(24 * 3600_000);
  let isOver = false;
  const scrub = b.integrity.scrub().finally(() => {
    isOver = true;
  });
  scrub.catch(() => {});
  while (!isOver) await b.clock.advance(100);
  await assert.rejects(scrub, { kind: 'corrupt' });
  assert.deepEqual(b.told, [`${path.basename(b.dir)}: disk`]);
});

test('a scrub under way ends with the engine', async () => {
  await using b = await bench();
  await b.integrity.trust(b.dir, b.manifest.parts);
  await b.clock.advance(24 * 3600_000);
  const scrub = b.integrity.scrub();
  b.integrity[Symbol.dispose]();
  await assert.rejects(scrub, MachineError);
  assert.deepEqual(b.told, []);
});

test('any flipped byte of a manifest is found', async () => {
  await using b = await bench();
  const file = path.join(b.dir, 'manifest.json');
  const text = await readFile(file);
  assert.deepEqual((await readManifest(b.dir, driver)).parts, b.manifest.parts);
  for (let at = 0; at < text.length; at++) {
    const damaged = Buffer.from(text);
    damaged[at] = (damaged[at] ?? 0) ^ 1;
    await writeFile(file, damaged);
    await assert.rejects(readManifest(b.dir, driver), { kind: 'corrupt' }, `byte ${at}`);
  }
  await assert.rejects(b.integrity.manifestOf(b.dir, driver), { kind: 'corrupt' });
  assert.deepEqual(b.told, [`${path.basename(b.dir)}: manifest`]);
});

test('a manifest of the first format asks for a new build', async () => {
  await using b = await bench();
  await writeFile(path.join(b.dir, 'manifest.json'), `${JSON.stringify({ generation: 1, parts: {} }, null, 2)}\n`);
  await assert.rejects(readManifest(b.dir, driver), { kind: 'unsupported', message: /build the version again/ });
});

test('any flipped byte of what a suspended machine saved is found', async () => {
  await using b = await bench();
  const files = machineFiles(path.join(b.dir, 'vm'));
  await mkdir(files.delta, { recursive: true });
  await writeFile(files.state, 'device state');
  await writeFile(files.overlay, 'overlay'.repeat(100));
  const saved: Saved = {
    generation: 3,
    base: b.manifest.parts.ram.sha256,
    secret: 'b'.repeat(64),
    stateId: null,
    memory: { kind: 'delta', fileId: 'c'.repeat(32) },
    state: await digestFile(files.state, { mapper }),
    overlay: await digestOverlay(files.overlay, mapper),
  };
  await writeFile(files.saved, encodeSaved(saved));
  const verify = async () => verifySaved(files, await readSaved(files, b.manifest), { mapper });
  await verify();
  for (const [file, what] of [
    [files.state, /its device state/],
    [files.overlay, /its disk/],
    [files.saved, /its record/],
  ] as const) {
    for (const at of [0, 11]) {
      await flip(file, at);
      await assert.rejects(verify, { kind: 'corrupt', message: what });
      await flip(file, at);
    }
  }
  await rm(files.overlay);
  await assert.rejects(verify, { kind: 'corrupt', message: /its disk/ });
});
