import assert from 'node:assert/strict';
import { mkdtemp, open, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import { ZipFile } from 'yazl';
import { type RawEntry, rawZip } from '../../test/support/raw-zip.ts';
import { ArtifactError, DEFAULT_UNZIP_LIMITS, type UnzipLimits } from './index.ts';
import { type UnzipOptions, unzip } from './unzip.ts';

type Admit = UnzipOptions['admit'];

const FILE = 0o100000;
const LINK = 0o120000;
const dockerfile: RawEntry = { name: 'Dockerfile', content: 'FROM base\n', mode: FILE | 0o644 };

/** A folder of its own and the attempt to unpack `archive` into it. */
async function unpack(archive: Buffer, { limits, admit }: { limits?: Partial<UnzipLimits>; admit?: Admit } = {}) {
  const stack = new AsyncDisposableStack();
  const folder = await mkdtemp(join(tmpdir(), 'rekindle-unzip-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, 'artifact.zip');
  await writeFile(path, archive);
  const handle = stack.use(await open(path, 'r'));
  const toDir = join(folder, 'out');
  const options = { limits: { ...DEFAULT_UNZIP_LIMITS, ...limits }, ...(admit && { admit }) };
  const error = await unzip(handle.fd, toDir, options).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  return { folder, toDir, error, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** Asserts the refusal and that nothing was left behind or written beside. */
async function refused(archive: Buffer, kind: string, message: RegExp, limits?: Partial<UnzipLimits>) {
  await using result = await unpack(archive, { ...(limits && { limits }) });
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
  ['a character device', [{ name: 'x', mode: 0o020666 }], /neither a file/],
  ['a block device', [{ name: 'x', mode: 0o060666 }], /neither a file/],
  ['a pipe', [{ name: 'x', mode: 0o010666 }], /neither a file/],
  ['a socket', [{ name: 'x', mode: 0o140666 }], /neither a file/],
  ['a folder that says it is a link', [{ name: 'x/', mode: LINK }], /neither a file/],
  ['the same file spelled with backslashes', [{ name: 'a/b' }, { name: 'a\\b' }], /'a\/b' stands in it twice/],
  ['a path of 4000 bytes', [{ name: `${'d/'.repeat(2000)}x` }], /too long/],
  ['a link of 5000 bytes', [{ name: 'l', content: 'x'.repeat(5000), mode: LINK }], /too long/],
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
  await refused(
    rawZip([{ ...dockerfile, name: 'app/Dockerfile' }]),
    'dockerfile-missing',
    /no file named Dockerfile at its root/,
  );
  await refused(rawZip([{ name: 'Dockerfile/' }]), 'dockerfile-missing', /no file named Dockerfile at its root/);
  await refused(rawZip([]), 'dockerfile-missing', /no file named Dockerfile at its root/);
});

test('bombs are refused: too many entries, too many bytes, too high a ratio', async () => {
  const big: RawEntry = { name: 'big', content: Buffer.alloc(1_000_000), deflate: true };
  await refused(rawZip([dockerfile, big]), 'archive-too-large', /1 entr|2 entries/, { maxEntries: 1 });
  await refused(rawZip([dockerfile, big]), 'archive-too-large', /more than 1000 bytes/, { maxTotalBytes: 1000 });
  await refused(rawZip([dockerfile, big]), 'archive-too-large', /400 times/, { ratioFreeBytes: 1000 });
  await refused(rawZip([dockerfile, big]), 'archive-too-large', /directory/, { maxDirectoryBytes: 8 });
});

test('names and links that cost far more than they take in the archive are refused', async () => {
  const deep = Array.from({ length: 40 }, (_, i) => ({ name: `${`${i}/`.repeat(1000)}x` }));
  await refused(rawZip([dockerfile, ...deep]), 'archive-too-large', /more than 20000 files and folders/, {
    maxEntries: 20_000,
  });
  const long = Array.from({ length: 1100 }, (_, i) => ({ name: `l${i}`, content: 'x/'.repeat(2000), mode: LINK }));
  await refused(rawZip([dockerfile, ...long]), 'archive-too-large', /its links lead to more than/);
  const chained = Array.from({ length: 30 }, (_, i) => ({
    name: `l${i}`,
    content: i === 0 ? '.' : `${'./'.repeat(2000)}l${i - 1}`,
    mode: LINK,
  }));
  const again = Array.from({ length: 500 }, (_, i) => ({ name: `m${i}`, content: 'l29', mode: LINK }));
  await refused(rawZip([dockerfile, ...chained, ...again]), 'archive-invalid', /too many and too long/);
});

test('a Dockerfile that is a link is none', async () => {
  const link = { name: 'Dockerfile', content: 'folder', mode: LINK };
  await refused(rawZip([{ name: 'folder/' }, link]), 'dockerfile-missing', /no file named Dockerfile/);
});

test('names are what their archive says, in UTF-8 or code page 437, and case tells them apart', async () => {
  const archive = rawZip([
    dockerfile,
    { name: 'straße/日本.txt', content: 'utf8' },
    { name: Buffer.from([0x81, 0x62, 0x65, 0x72]), content: 'cp437', isCodePage437: true },
    { name: 'dockerfile', content: 'lower' },
    { name: 'from\\windows', content: 'slashes' },
    { name: 'spaces and\nlines', content: 'odd' },
    { name: `${'n'.repeat(255)}`, content: 'long' },
    { name: `${'deep/'.repeat(600)}file`, content: 'deep' },
  ]);
  await using result = await unpack(archive);
  assert.equal(result.error, undefined);
  for (const [name, content] of [
    ['straße/日本.txt', 'utf8'],
    ['über', 'cp437'],
    ['dockerfile', 'lower'],
    ['from/windows', 'slashes'],
    ['spaces and\nlines', 'odd'],
    ['n'.repeat(255), 'long'],
    [`${'deep/'.repeat(600)}file`, 'deep'],
  ] as const) {
    assert.equal(await readFile(join(result.toDir, name), 'utf8'), content);
  }
});

test('a refusal shows nothing of a name that a terminal would obey, and little of a long one', async () => {
  const archive = rawZip([dockerfile, { name: `/\u001b]0;owned\u0007\u202e${'x'.repeat(60_000)}`, content: 'x' }]);
  await using result = await unpack(archive);
  assert.ok(result.error instanceof ArtifactError);
  assert.match(
    result.error.message,
    /^The code artifact is not a usable zip archive: absolute path: \/\?\]0;owned\?\?x+\.$/,
  );
  assert.ok(result.error.message.length < 400);
});

test('an archive of more entries than 16 bits can count is read whole', async () => {
  const files = Array.from({ length: 70_000 }, (_, i) => ({ name: `d${i % 100}/${i}`, content: 'x' }));
  let bytes = 0;
  await using result = await unpack(rawZip([dockerfile, ...files]), {
    admit: (all) => {
      bytes = all;
      throw new Error('that is enough: writing them all takes long');
    },
  });
  assert.match(String(result.error), /that is enough/);
  assert.equal(bytes, 70_010);
});

test('nothing is written when there is no room for what the archive says it holds', async () => {
  const content = Buffer.alloc(1000);
  const full = new Error('no room');
  const asked: number[] = [];
  await using result = await unpack(rawZip([dockerfile, { name: 'a', content }, { name: 'b', content }]), {
    admit: (bytes) => {
      asked.push(bytes);
      throw full;
    },
  });
  assert.equal(result.error, full);
  assert.deepEqual(asked, [2010]);
  assert.deepEqual(await readdir(result.folder), ['artifact.zip']);
});
