import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, open, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { decryptSparse, encryptSparse } from './ram-file.ts';

const MIB = 2 ** 20;
const BYTES = 8 * MIB;
/** Never asked: the file is small. */
const options = { mapper: '/bin/false' };

test('a sparse file comes back with its data and its holes, and one wrong byte is found', async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-ram-'));
  const at = (name: string) => path.join(dir, name);
  try {
    const key = randomBytes(32);
    {
      await using file = await open(at('plain'), 'wx');
      await file.truncate(BYTES);
      await file.write(randomBytes(300_000), 0, 300_000, 100);
      await file.write(Buffer.from('the end'), 0, 7, BYTES - 7);
      await file.write(Buffer.alloc(MIB), 0, MIB, 4 * MIB);
    }
    await encryptSparse(at('plain'), at('sealed'), key, options);
    assert.ok((await stat(at('sealed'))).size < MIB);
    assert.ok(!(await readFile(at('sealed'))).includes('the end'));
    await decryptSparse(at('sealed'), at('back'), key, { bytes: BYTES, what: 'it' });
    assert.ok((await readFile(at('back'))).equals(await readFile(at('plain'))));
    assert.ok((await stat(at('back'))).blocks * 512 < MIB, 'zeros are holes');

    const less = decryptSparse(at('sealed'), at('less'), key, { bytes: BYTES - 1, what: 'it' });
    await assert.rejects(less, { kind: 'corrupt' });
    await using sealed = await open(at('sealed'), 'r+');
    const byte = Buffer.alloc(1);
    await sealed.read(byte, 0, 1, 5000);
    await sealed.write(Buffer.from([(byte[0] ?? 0) ^ 1]), 0, 1, 5000);
    const damaged = decryptSparse(at('sealed'), at('damaged'), key, { bytes: BYTES, what: 'it' });
    await assert.rejects(damaged, { kind: 'corrupt', message: 'it is damaged' });
  } finally {
    await rm(dir, { recursive: true });
  }
});
