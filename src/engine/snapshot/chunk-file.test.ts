import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';
import { cipherGuard, createChunkFile, digestGuard, type Guard, readChunkFile } from './chunk-file.ts';

const CHUNKS = ['one', 'two and more', 'x'.repeat(3000)].map((text) => Buffer.from(text));

interface Folder extends AsyncDisposable {
  readonly file: string;
}

async function folder(): Promise<Folder> {
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-chunks-'));
  return { file: path.join(dir, 'file'), [Symbol.asyncDispose]: () => rm(dir, { recursive: true }) };
}

async function write(file: string, guard: Guard): Promise<void> {
  await using writer = await createChunkFile(file, guard);
  for (const chunk of CHUNKS) await writer.write(chunk.subarray(0, 1), chunk.subarray(1));
  await writer.finish();
}

async function read(file: string, guard: Guard): Promise<Buffer[]> {
  const found: Buffer[] = [];
  for await (const chunk of readChunkFile(file, guard, 'the file')) found.push(Buffer.from(chunk));
  return found;
}

for (const [name, guardOf] of [
  ['with a digest', digestGuard],
  ['encrypted', cipherGuard],
] as const) {
  describe(`a chunk file ${name}`, () => {
    const key = randomBytes(32);

    test('comes back as it was written', async () => {
      await using at = await folder();
      await write(at.file, guardOf(key));
      assert.deepEqual(await read(at.file, guardOf(key)), CHUNKS);
    });

    test('is refused when any byte of it is another', async () => {
      await using at = await folder();
      await write(at.file, guardOf(key));
      const bytes = await readFile(at.file);
      for (let i = 0; i < bytes.length; i += i < 60 || i > bytes.length - 60 ? 1 : 97) {
        const damaged = Buffer.from(bytes);
        damaged[i] = (damaged[i] ?? 0) ^ 1;
        await writeFile(at.file, damaged);
        await assert.rejects(read(at.file, guardOf(key)), { kind: 'corrupt', message: /the file is damaged/ }, `${i}`);
      }
    });

    test('is refused when it is cut anywhere, between chunks too', async () => {
      await using at = await folder();
      await write(at.file, guardOf(key));
      const bytes = await readFile(at.file);
      for (const length of [0, 3, 4, 10, 23, 46, 55, bytes.length - 20, bytes.length - 1]) {
        await writeFile(at.file, bytes.subarray(0, length));
        await assert.rejects(read(at.file, guardOf(key)), { kind: 'corrupt' }, `${length}`);
      }
    });

    test('is refused under the name or key of another', async () => {
      await using at = await folder();
      await write(at.file, guardOf(key));
      await assert.rejects(read(at.file, guardOf(randomBytes(32))), { kind: 'corrupt' });
    });
  });
}

test('only the encrypted one hides what it holds', async () => {
  await using at = await folder();
  await write(at.file, digestGuard(randomBytes(16)));
  assert.ok((await readFile(at.file)).includes('two and more'));
  await rm(at.file);
  await write(at.file, cipherGuard(randomBytes(32)));
  assert.ok(!(await readFile(at.file)).includes('two and more'));
});
