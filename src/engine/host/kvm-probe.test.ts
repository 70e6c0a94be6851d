import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Runtime } from '../runtime.ts';
import { exitCode, probeBios, probeKvm } from './kvm-probe.ts';

const cache = process.env.REKINDLE_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'rekindle');
const file = join(cache, 'runtime/runtime.json');
const runtime = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Runtime) : undefined;
const skip = runtime === undefined ? 'set-up has not run' : false;

test('the probe BIOS starts at its reset vector and has the size of a BIOS', () => {
  const bios = probeBios();
  assert.equal(bios.length, 65_536);
  assert.equal(bios.subarray(0xfff0, 0xfff5).toString('hex'), 'ea000000f0');
});

test('the probe guest finishes under software emulation, so only the accelerator can make it fail', {
  skip,
}, async () => {
  assert.ok(runtime);
  assert.equal(await exitCode(runtime.qemu, 'tcg', 30_000), 43);
});

test('KVM is either usable or refused with a reason', { skip }, async () => {
  assert.ok(runtime);
  const verdict = await probeKvm(runtime.qemu);
  if (!verdict.usable) assert.match(verdict.why, /kvm/);
});
