import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { silentLogger, TestClock } from '../../lib/index.ts';
import { fakeDriver } from '../vmm/fake/fake-driver.ts';
import { Keyring } from './encryption.ts';
import { type Manifest, readManifest } from './manifest.ts';
import { createDraft, sealDraft } from './seal.ts';
import { Vault } from './vault.ts';

const driver = fakeDriver();
const IDLE_MS = 10 * 60_000;

interface Bench extends AsyncDisposable {
  readonly snapshotDir: string;
  readonly memoryDir: string;
  readonly clock: TestClock;
  readonly keyring: Keyring;
  vault(): Vault;
  manifest(): Promise<Manifest>;
  /** Decrypted snapshots there are. */
  decrypted(): Promise<string[]>;
}

async function bench(): Promise<Bench> {
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-vault-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const [snapshotDir, memoryDir] = [path.join(dir, 'snapshot'), path.join(dir, 'memory')];
  const clock = new TestClock();
  const keyring = new Keyring(randomBytes(32));
  const vault = () => stack.use(new Vault({ memoryDir, clock, log: silentLogger }));
  await using draft = await createDraft(snapshotDir, { keyring, vault: vault() });
  assert.ok(draft.ram.startsWith(memoryDir) && draft.state.startsWith(memoryDir), 'plain parts are made in memory');
  await writeFile(draft.ram, Buffer.alloc(2 ** 20, 'what the app held '));
  await writeFile(draft.state, 'registers');
  await writeFile(draft.disk, 'disk');
  await writeFile(draft.changes, 'changes');
  const container = { entrypoint: ['x'], cmd: [], env: ['TOKEN=hidden'], workingDir: '', user: '', exposedPorts: [] };
  const facts = { runtimeStamp: 's', kernelRelease: '6', memoryMiB: 1, cpus: 1, network: 'none' } as const;
  const link = { generation: 1, secret: 'the link secret' };
  const options = { driver, mapper: '/bin/false', signal: undefined };
  await sealDraft(draft, snapshotDir, { ...facts, link, container, built: null }, options);
  const owned = stack.move();
  return {
    snapshotDir,
    memoryDir,
    clock,
    keyring,
    vault: () => owned.use(new Vault({ memoryDir, clock, log: silentLogger })),
    manifest: () => readManifest(snapshotDir, driver, keyring),
    decrypted: () => readdir(path.join(memoryDir, 'snapshots')).catch(() => []),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

test('an encrypted snapshot keeps its secrets from whoever reads its folder, and gives them to its key', async () => {
  await using b = await bench();
  for (const name of await readdir(b.snapshotDir)) {
    const bytes = await readFile(path.join(b.snapshotDir, name));
    for (const word of ['app held', 'registers', 'hidden', 'the link secret']) {
      assert.ok(!bytes.includes(word), `${word} is in ${name}`);
    }
  }
  const manifest = await b.manifest();
  assert.equal(manifest.link.secret, 'the link secret');
  assert.deepEqual(manifest.container?.env, ['TOKEN=hidden']);
  await assert.rejects(readManifest(b.snapshotDir, driver), { kind: 'unsupported', message: /encryption-key-file/ });
  const other = new Keyring(randomBytes(32));
  await assert.rejects(readManifest(b.snapshotDir, driver, other), { kind: 'unsupported' });
});

test('machines of a version share what was decrypted, and it is forgotten a while after the last', async () => {
  await using b = await bench();
  const vault = b.vault();
  const manifest = await b.manifest();
  const [one, two] = await Promise.all([vault.open(b.snapshotDir, manifest), vault.open(b.snapshotDir, manifest)]);
  assert.equal(one.ram, two.ram);
  assert.ok((await readFile(one.ram)).includes('what the app held'));
  assert.equal(await readFile(one.state, 'utf8'), 'registers');
  one[Symbol.dispose]();
  one[Symbol.dispose]();
  await b.clock.advance(2 * IDLE_MS);
  assert.equal((await b.decrypted()).length, 1, 'it is in use');
  two[Symbol.dispose]();
  await b.clock.advance(IDLE_MS - 1);
  const three = await vault.open(b.snapshotDir, manifest);
  await b.clock.advance(2 * IDLE_MS);
  assert.equal((await b.decrypted()).length, 1, 'it was taken up again');
  three[Symbol.dispose]();
  await b.clock.advance(IDLE_MS);
  while ((await b.decrypted()).length > 0) await b.clock.advance(0);
});

test('a server that ends leaves in memory what a machine still maps, and nothing else', async () => {
  await using b = await bench();
  const manifest = await b.manifest();
  const first = b.vault();
  const opened = await first.open(b.snapshotDir, manifest);
  await first[Symbol.asyncDispose]();
  assert.equal(existsSync(opened.ram), true);
  const second = b.vault();
  await second.start();
  const again = await second.open(b.snapshotDir, manifest);
  again[Symbol.dispose]();
  await second[Symbol.asyncDispose]();
  assert.deepEqual(await b.decrypted(), []);
});

test('what is damaged is not left in memory', async () => {
  await using b = await bench();
  const manifest = await b.manifest();
  const file = path.join(b.snapshotDir, 'ram');
  await rm(file, { force: true });
  await mkdir(b.memoryDir, { recursive: true });
  await using handle = await open(file, 'wx');
  await handle.write('no chunks');
  const vault = b.vault();
  await assert.rejects(vault.open(b.snapshotDir, manifest), { kind: 'corrupt' });
  assert.deepEqual(await b.decrypted(), []);
});

test('a plain snapshot is used where it is', async () => {
  await using vault = new Vault({ memoryDir: undefined, clock: new TestClock(), log: silentLogger });
  const { ram, passphrase } = await vault.open('/somewhere', {} as Manifest);
  assert.deepEqual([ram, passphrase], ['/somewhere/ram', undefined]);
});
