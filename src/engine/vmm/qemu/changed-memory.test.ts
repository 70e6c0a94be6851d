import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readlinkSync } from 'node:fs';
import { test } from 'node:test';
import { changedMemoryOf } from './changed-memory.ts';

test('a VMM that was killed while its memory was loaded fails the load instead of holding up the server for ever', async () => {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  await once(child, 'spawn');
  assert.ok(child.pid);
  const exited = once(child, 'exit');
  // Any file a process maps will do.
  const memory = changedMemoryOf(child.pid, readlinkSync(`/proc/${child.pid}/exe`));
  async function* chunks() {
    child.kill('SIGKILL');
    await exited;
    // One run, the first page of the file, of zeros.
    yield Buffer.from([1, 0, 0, 0, ...new Array(8).fill(0), 1, 0, 0, 0, 1, 0, 0, 0]);
  }
  await assert.rejects(memory.load(chunks()), { kind: 'exited' });
});
