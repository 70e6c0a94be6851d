import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { isSelfContained, sourceKey } from './source-key.ts';

const BASES = ['debian:13', 'public.ecr.aws/lambda/microvms:al2023-minimal'];

test('a Dockerfile of managed bases, its context and its own stages is self-contained', () => {
  for (const text of [
    'FROM debian:13\nRUN apt-get update && apt-get install -y tree\nCOPY . .\n',
    'from public.ecr.aws/lambda/microvms:al2023-minimal AS Build\nRUN make\nFROM debian:13\nCOPY --from=build /a /a\n',
    'FROM debian:13\nFROM scratch\nCOPY --from=0 /a /a\nRUN --mount=type=cache,target=/c true\n',
    'FROM debian:13 AS one\nFROM one\nRUN --mount=type=bind,from=one,target=/one \\\n  cat /one/x\n',
  ]) {
    assert.ok(isSelfContained(text, BASES), text);
  }
});

test('a Dockerfile that may get something else next time is not', () => {
  for (const text of [
    'FROM debian:12\n',
    'FROM $BASE\n',
    'ARG BASE=debian:13\nFROM \u0024{BASE}\n',
    'FROM debian:13 AS a\nFROM b\n',
    'FROM --platform=linux/amd64 debian:13\n',
    'FROM debian:13\nADD https://example.com/x /x\n',
    'FROM debian:13\nADD \\\n  https://example.com/x /x\n',
    'FROM debian:13\nCOPY --from=nginx:latest /a /a\n',
    'FROM debian:13\nCOPY --from="nginx" /a /a\n',
    'FROM debian:13\nRUN --mount=type=bind,from=nginx,target=/a true\n',
    'FROM debian:13\nCOPY --from=1 /a /a\n',
    'FROM debian:13\nCOPY --fr\\\nom=nginx /a /a\nFROM \\\n nginx\n',
    '# syntax=docker/dockerfile:1\nFROM debian:13\n',
    '# escape=`\nFROM debian:13\nADD x `\n y\n',
    'FROM debian:13\nONBUILD ADD x y\n',
  ]) {
    assert.ok(!isSelfContained(text, BASES), text);
  }
});

test('a key follows from names, modes, links and contents, and not from times', async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-key-'));
  try {
    const file = (name: string) => path.join(dir, name);
    await writeFile(file('Dockerfile'), 'FROM debian:13\nCOPY . .\n');
    await mkdir(file('src'));
    await writeFile(file('src/app.py'), 'print(1)');
    const key = (stamp = 'one') => sourceKey(dir, { bases: BASES, stamp });
    const seen = new Set([await key()]);
    await utimes(file('src/app.py'), 1, 1);
    seen.add(await key());
    assert.equal(seen.size, 1);
    const changes = [
      () => writeFile(file('src/app.py'), 'print(2)'),
      () => chmod(file('src/app.py'), 0o755),
      () => symlink('src', file('link')),
      () => mkdir(file('empty')),
      () => writeFile(file('empty/file'), ''),
    ];
    for (const [at, change] of changes.entries()) {
      await change();
      seen.add(await key());
      assert.equal(seen.size, at + 2);
    }
    assert.ok(!seen.has(await key('another builder')));
    await writeFile(file('Dockerfile'), 'FROM nginx\n');
    assert.equal(await key(), undefined);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});
