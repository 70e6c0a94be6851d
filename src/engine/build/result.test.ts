import assert from 'node:assert/strict';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileSystemBytes, readResult } from './result.ts';

async function withFile(bytes: Buffer, work: (file: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'rk-result-'));
  try {
    await writeFile(path.join(folder, 'disk'), bytes);
    await work(path.join(folder, 'disk'));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function resultOf(value: unknown): Buffer {
  const body = Buffer.from(typeof value === 'string' ? value : JSON.stringify(value));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  return Buffer.concat([Buffer.from('RKRESULT'), length, body]);
}

const ORIGIN = {
  rootfs: 'ab'.repeat(32),
  dependencies: [{ uri: 'pkg:docker/debian@13', digest: { sha256: 'cd'.repeat(32) } }],
  buildkit: 'v0.33.1',
  packages: [{ type: 'deb', name: 'bash', version: '5.2.37-2', arch: 'amd64' }],
  unread: ['var/lib/rpm/rpmdb.sqlite: not read'],
};

async function read(bytes: Buffer) {
  let found: Awaited<ReturnType<typeof readResult>> | undefined;
  await withFile(bytes, async (path) => {
    await using file = await open(path);
    found = await readResult(file);
  });
  return found;
}

test('a result becomes a container config', async () => {
  const config = {
    Entrypoint: null,
    Cmd: ['python3', 'app.py'],
    Env: ['A=b', 'nonsense'],
    WorkingDir: '/app',
    User: '1000',
    ExposedPorts: { '53/udp': {}, '8080/tcp': {}, '99999/tcp': {} },
  };
  assert.deepEqual(await read(resultOf({ config, usedBytes: 5, origin: ORIGIN })), {
    config: {
      entrypoint: [],
      cmd: ['python3', 'app.py'],
      env: ['A=b'],
      workingDir: '/app',
      user: '1000',
      exposedPorts: [8080],
    },
    usedBytes: 5,
    origin: ORIGIN,
  });
});

test('a result of any other shape is refused', async () => {
  const bad = [
    Buffer.alloc(100),
    resultOf('{'),
    resultOf([]),
    resultOf({ config: {}, usedBytes: 'many', origin: ORIGIN }),
    resultOf({ config: { Cmd: 'sh' }, usedBytes: 1, origin: ORIGIN }),
    resultOf({ config: { Cmd: [1] }, usedBytes: 1, origin: ORIGIN }),
    resultOf({ config: { Cmd: ['a\0b'] }, usedBytes: 1, origin: ORIGIN }),
    resultOf({ config: {}, usedBytes: 1, origin: null }),
    ...[
      { rootfs: 'short' },
      { dependencies: {} },
      { dependencies: [{ uri: 'u'.repeat(3000), digest: {} }] },
      { dependencies: [{ uri: 'u', digest: { sha256: '../..' } }] },
      { dependencies: new Array(300).fill({ uri: 'u', digest: {} }) },
      { buildkit: 'two words' },
      { packages: [{ type: 'exe', name: 'a', version: '1', arch: 'all' }] },
      { packages: [{ type: 'deb', name: 'a\nb', version: '1', arch: 'all' }] },
      { packages: new Array(10_001).fill(ORIGIN.packages[0]) },
      { unread: [7] },
    ].map((odd) => resultOf({ config: {}, usedBytes: 1, origin: { ...ORIGIN, ...odd } })),
    Buffer.concat([Buffer.from('RKRESULT'), Buffer.from([255, 255, 255, 255])]),
  ];
  for (const bytes of bad) await assert.rejects(read(bytes), { kind: 'protocol' });
});

test('a file system that claims more than its disk is refused', async () => {
  const disk = Buffer.alloc(4096);
  disk.writeUInt16LE(0xef53, 1024 + 0x38);
  disk.writeUInt32LE(2, 1024 + 4);
  disk.writeUInt32LE(1, 1024 + 0x18);
  await withFile(disk, async (file) => assert.equal(await fileSystemBytes(file), 4096));
  disk.writeUInt32LE(3, 1024 + 4);
  await withFile(disk, async (file) => assert.rejects(fileSystemBytes(file), { kind: 'protocol' }));
  await withFile(Buffer.alloc(4096), async (file) => assert.rejects(fileSystemBytes(file), { kind: 'protocol' }));
});
