import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { findRuntime } from '../load-runtime.ts';
import { luksHeader } from './luks.ts';
import { createOverlay } from './overlay.ts';

const cache =
  process.env.REKINDLE_CACHE ?? path.join(process.env.XDG_CACHE_HOME ?? path.join(homedir(), '.cache'), 'rekindle');
const runtime = findRuntime(cache);

test('qemu-img finds an overlay flawless and as large as asked', {
  skip: runtime === undefined ? 'set-up has not run' : false,
}, async () => {
  assert.ok(runtime);
  const folder = mkdtempSync(path.join(tmpdir(), 'rk-overlay-'));
  try {
    const file = path.join(folder, 'overlay.qcow2');
    await createOverlay(file, 8 * 1024 ** 3);
    execFileSync(runtime.qemu.img, ['check', '-q', '-f', 'qcow2', file]);
    const info = JSON.parse(execFileSync(runtime.qemu.img, ['info', '--output=json', file]).toString());
    assert.equal(info['virtual-size'], 8 * 1024 ** 3);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('an encrypted overlay opens with its passphrase alone, and nothing written to it can be found in its file', {
  skip: runtime === undefined ? 'set-up has not run' : false,
}, async () => {
  assert.ok(runtime);
  const { img } = runtime.qemu;
  const folder = mkdtempSync(path.join(tmpdir(), 'rk-overlay-'));
  const at = (name: string) => path.join(folder, name);
  const image = (secret: string) => [
    ...['--object', `secret,id=key,file=${at(secret)}`, '--image-opts'],
    `driver=qcow2,file.filename=${at('overlay.qcow2')},encrypt.format=luks,encrypt.key-secret=key`,
  ];
  try {
    await createOverlay(at('overlay.qcow2'), 8 * 2 ** 20, luksHeader('right', 'a-uuid'));
    writeFileSync(at('right'), 'right');
    writeFileSync(at('wrong'), 'wrong');
    execFileSync(img, ['check', '-q', ...image('right')]);
    assert.throws(
      () => execFileSync(img, ['check', '-q', ...image('wrong')], { stdio: 'pipe' }),
      /[Ii]nvalid password/,
    );
    const text = Buffer.alloc(2 ** 20, 'what the guest wrote ');
    writeFileSync(at('plain'), Buffer.concat([text, Buffer.alloc(7 * 2 ** 20)]));
    const target = image('right').at(-1) ?? '';
    execFileSync(img, [
      'convert',
      '-n',
      '-f',
      'raw',
      ...image('right').slice(0, 2),
      '--target-image-opts',
      at('plain'),
      target,
    ]);
    assert.ok(!readFileSync(at('overlay.qcow2')).includes('the guest'));
    execFileSync(img, ['convert', '-O', 'raw', ...image('right'), at('back')]);
    assert.ok(readFileSync(at('back')).subarray(0, text.length).equals(text));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
