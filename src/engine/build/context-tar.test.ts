import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmod, mkdir, mkdtemp, open, readFile, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { writeContextTar } from './context-tar.ts';

test('GNU tar unpacks what was written, long names and links included, all owned by root', async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'rk-tar-'));
  try {
    const source = path.join(folder, 'source');
    const long = `${'d'.repeat(90)}/${'f'.repeat(120)}`;
    await mkdir(path.join(source, 'd'.repeat(90)), { recursive: true });
    await writeFile(path.join(source, 'Dockerfile'), 'FROM scratch\n');
    await writeFile(path.join(source, 'run.sh'), '#!/bin/sh\n');
    await chmod(path.join(source, 'run.sh'), 0o755);
    await writeFile(path.join(source, long), Buffer.alloc(3_000_000, 'x'));
    await writeFile(path.join(source, 'ümläut'), '');
    await symlink(`../${'t'.repeat(150)}`, path.join(source, 'link'));
    const archive = path.join(folder, 'disk');
    await using file = await open(archive, 'w');
    await writeContextTar(source, file);
    await file.truncate(16 * 1024 * 1024);
    const out = path.join(folder, 'out');
    await mkdir(out);
    const owners = execFileSync('tar', ['--numeric-owner', '-tvf', archive]).toString();
    assert.ok(
      owners
        .split('\n')
        .filter(Boolean)
        .every((line) => line.includes(' 0/0 ')),
      owners,
    );
    execFileSync('tar', ['--extract', '--file', archive, '--directory', out, '--no-same-owner']);
    assert.equal(await readFile(path.join(out, 'Dockerfile'), 'utf8'), 'FROM scratch\n');
    assert.equal((await stat(path.join(out, 'run.sh'))).mode & 0o777, 0o755);
    assert.equal((await stat(path.join(out, long))).size, 3_000_000);
    assert.equal((await stat(path.join(out, 'ümläut'))).size, 0);
    assert.equal(await readlink(path.join(out, 'link')), `../${'t'.repeat(150)}`);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
