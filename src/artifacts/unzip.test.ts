import assert from 'node:assert/strict';
import { mkdtemp, open, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import { ZipFile } from 'yazl';
import { type RawEntry, rawZip } from '../../test/support/raw-zip.ts';
import { ArtifactError, DEFAULT_UNZIP_LIMITS, type UnzipLimits } from './index.ts';
import { unzip } from './unzip.ts';

const FILE = 0o100000;
const LINK = 0o120000;
const dockerfile: RawEntry = { name: 'Dockerfile', content: 'FROM base\n', mode: FILE | 0o644 };

/** A folder of its own and the attempt to unpack `archive` into it. */
async function unpack(archive: Buffer, limits?: Partial<UnzipLimits>) {
  const stack = new AsyncDisposableStack();
  const folder = await mkdtemp(join(tmpdir(), 'rekindle-unzip-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, 'artifact.zip');
  await writeFile(path, archive);
  const handle = stack.use(await open(path, 'r'));
  const toDir = join(folder, 'out');
  const error = await unzip(handle.fd, toDir, { limits: { ...DEFAULT_UNZIP_LIMITS, ...limits } }).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  return { folder, toDir, error, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** Asserts the refusal and that nothing was left behind or written beside. */
async function refused(archive: Buffer, kind: string, message: RegExp, limits?: Partial<UnzipLimits>) {
  await using result = await unpack(archive, limits);
  assert.ok(result.error instanceof ArtifactError, `refused, not ${String(result.error)}`);
  assert.equal(result.error.kind, kind);
  assert.match(result.error.message, message);
  assert.deepEqual(await readdir(result.folder), ['artifact.zip']);
}

test('an ordinary archive is unpacked with its folders, its bytes and its exec bits', async () => {
  const zip = new ZipFile();
  zip.addBuffer(Buffer.from('FROM base\n'), 'Dockerfile', { mode: FILE | 0o644 });
  zip.addBuffer(Buffer.from('#!/bin/sh\n'), 'app/bin/start', { mode: FILE | 0o755 });
  zip.addBuffer(Buffer.alloc(300_000, 'x'), 'app/large.txt', { mode: FILE | 0o600 });
  zip.addEmptyDirectory('app/empty');
  zip.end();
  await using result = await unpack(await buffer(zip.outputStream));
  assert.equal(result.error, undefined);
  assert.equal(await readFile(join(result.toDir, 'Dockerfile'), 'utf8'), 'FROM base\n');
  assert.equal((await stat(join(result.toDir, 'app/bin/start'))).mode & 0o777, 0o755);
  assert.equal((await stat(join(result.toDir, 'app/large.txt'))).mode & 0o777, 0o600);
  assert.equal((await stat(join(result.toDir, 'app/large.txt'))).size, 300_000);
  assert.deepEqual(await readdir(join(result.toDir, 'app/empty')), []);
});

test('setuid is dropped and files of archives without Unix modes are ordinary', async () => {
  const { mode: _, ...fromDos } = dockerfile;
  await using result = await unpack(rawZip([fromDos, { name: 'su', content: 'x', mode: FILE | 0o4755 }]));
  assert.equal(result.error, undefined);
  assert.equal((await stat(join(result.toDir, 'su'))).mode & 0o7777, 0o755);
  assert.equal((await stat(join(result.toDir, 'Dockerfile'))).mode & 0o7777, 0o644);
});

test('links that stay inside are kept as links', async () => {
  const archive = rawZip([dockerfile, { name: 'a/b/link', content: '../../Dockerfile', mode: LINK | 0o777 }]);
  await using result = await unpack(archive);
  assert.equal(result.error, undefined);
  assert.equal(await readlink(join(result.toDir, 'a/b/link')), '../../Dockerfile');
  assert.equal(await readFile(join(result.toDir, 'a/b/link'), 'utf8'), 'FROM base\n');
});

const hostile: readonly (readonly [what: string, entries: readonly RawEntry[], message: RegExp])[] = [
  ['a name with ..', [{ name: '../evil', content: 'x' }], /invalid relative path/],
  ['a name with .. further down', [{ name: 'a/../../evil', content: 'x' }], /invalid relative path/],
  ['an absolute name', [{ name: '/etc/evil', content: 'x' }], /absolute path/],
  ['a drive letter', [{ name: 'C:/evil', content: 'x' }], /absolute path/],
  ['.. behind backslashes', [{ name: '..\\evil', content: 'x' }], /invalid relative path/],
  ['a NUL in a name', [{ name: 'a\0b', content: 'x' }], /NUL/],
  ['a name of 300 bytes', [{ name: 'n'.repeat(300), content: 'x' }], /too long/],
  ['the same file twice', [dockerfile], /'Dockerfile' stands in it twice/],
  ['the same file spelled twice', [{ name: './Dockerfile', content: 'x' }], /'Dockerfile' stands in it twice/],
  ['a file below a file', [{ name: 'Dockerfile/x', content: 'x' }], /lies below a file/],
  ['an encrypted file', [{ name: 'x', content: 'x', deflate: true, encrypted: true }], /'x' is encrypted/],
  ['an unknown compression', [{ name: 'x', content: 'x', method: 99 }], /compression method 99/],
  ['a wrong checksum', [{ name: 'x', content: 'x', crc: 1 }], /does not match its checksum/],
  ['a lie about the size', [{ name: 'x', content: 'xxxx', deflate: true, uncompressedSize: 2 }], /'x' is damaged/],
  ['a device', [{ name: 'x', mode: 0o020666 }], /neither a file/],
  ['an absolute link', [{ name: 'l', content: '/etc/passwd', mode: LINK }], /'l' leads outside/],
  ['an escaping link', [{ name: 'a/l', content: '../../x', mode: LINK }], /'a\/l' leads outside/],
  ['an empty link', [{ name: 'l', content: '', mode: LINK }], /no usable target/],
  [
    'a link that escapes through another link',
    [
      { name: 'a/b/up', content: '../..', mode: LINK },
      { name: 'm', content: 'a/b/up/../x', mode: LINK },
    ],
    /'m' leads outside/,
  ],
  [
    'a file written through a link',
    [
      { name: 'l', content: '.', mode: LINK },
      { name: 'l/x', content: 'x' },
    ],
    /lies below a link/,
  ],
  [
    'a circle of links',
    [
      { name: 'a', content: 'b', mode: LINK },
      { name: 'b', content: 'a', mode: LINK },
    ],
    /too many links/,
  ],
];
for (const [what, entries, message] of hostile) {
  test(`an archive with ${what} is refused and nothing is left`, async () => {
    await refused(rawZip([dockerfile, ...entries]), 'archive-invalid', message);
  });
}

test('what is no zip, or only half of one, is refused', async () => {
  await refused(Buffer.from('this is no zip at all'), 'archive-invalid', /missing or damaged/);
  await refused(Buffer.alloc(0), 'archive-invalid', /missing or damaged/);
  const whole = rawZip([dockerfile]);
  await refused(whole.subarray(0, whole.length - 30), 'archive-invalid', /missing or damaged/);
  await refused(whole.subarray(10), 'archive-invalid', /damaged|not a usable/);
});

test('an archive without a Dockerfile at its root is refused', async () => {
  await refused(rawZip([{ ...dockerfile, name: 'app/Dockerfile' }]), 'dockerfile-missing', /no Dockerfile at its root/);
  await refused(rawZip([{ name: 'Dockerfile/' }]), 'dockerfile-missing', /no Dockerfile at its root/);
  await refused(rawZip([]), 'dockerfile-missing', /no Dockerfile at its root/);
});

test('bombs are refused: too many entries, too many bytes, too high a ratio', async () => {
  const big: RawEntry = { name: 'big', content: Buffer.alloc(1_000_000), deflate: true };
  await refused(rawZip([dockerfile, big]), 'archive-too-large', /1 entr|2 entries/, { maxEntries: 1 });
  await refused(rawZip([dockerfile, big]), 'archive-too-large', /more than 1000 bytes/, { maxTotalBytes: 1000 });
  await refused(rawZip([dockerfile, big]), 'archive-too-large', /400 times/, { ratioFreeBytes: 1000 });
  await refused(rawZip([dockerfile, big]), 'archive-too-large', /directory/, { maxDirectoryBytes: 8 });
});
