import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { findRuntime } from '../load-runtime.ts';
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
