import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { VmmConfig } from '../vmm/vmm.ts';
import { limitsOf } from './limits.ts';
import { JAIL_FILES, JAIL_FOLDERS } from './places.ts';
import { viewOf, writtenFiles } from './view.ts';

const config: VmmConfig = {
  id: 'vm-1',
  runDir: '/state/run/vm-1',
  memoryMiB: 2048,
  cpus: 1,
  ram: { path: '/state/images/i/ram', sharing: 'private' },
  disks: [
    {
      serial: 'root',
      source: {
        kind: 'overlay',
        path: '/state/microvms/vm-1/overlay.qcow2',
        layerPaths: ['/state/images/i/changes'],
        basePath: '/state/images/i/disk',
      },
    },
    { serial: 'spare1', source: { kind: 'raw', path: '/state/builds/b/out.raw' } },
    { serial: 'spare2', source: { kind: 'empty', bytes: 1 } },
  ],
  network: { socketDir: '/gateway/net/vm-1', link: 'up' },
  boot: 'restore',
  limits: limitsOf({ memoryMiB: 2048, cpus: 1 }),
};
const options = { folder: '/state/run/vm-1/vm', accelerator: 'tcg' } as const;

test('the VMM is told no path of the host', () => {
  const boot = { kernel: '/cache/kernel', initramfs: '/cache/initramfs', kernelLine: 'quiet' };
  const { config: seen } = viewOf({ ...config, boot }, options);
  assert.doesNotMatch(JSON.stringify(seen), /\/state|\/cache|\/gateway/);
});

test('every mount has an empty place in the jail root, and each thing a place of its own', () => {
  const boot = { kernel: '/cache/kernel', initramfs: '/cache/initramfs', kernelLine: 'quiet' };
  const { mounts } = viewOf({ ...config, boot }, { ...options, accelerator: 'kvm' });
  const places = mounts.map(({ to }) => to);
  for (const place of places) assert.ok([...JAIL_FILES, ...JAIL_FOLDERS].includes(place), place);
  assert.equal(new Set(places).size, places.length);
});

test('only the machine itself is writable: its disks and its working folder', () => {
  const { mounts } = viewOf(config, options);
  const written = mounts.filter(({ kind }) => kind === 'write').map(({ from }) => from);
  assert.deepEqual(written, ['/state/run/vm-1/vm', '/state/microvms/vm-1/overlay.qcow2', '/state/builds/b/out.raw']);
  assert.deepEqual(writtenFiles(config), ['/state/microvms/vm-1/overlay.qcow2', '/state/builds/b/out.raw']);
});

test('memory that is sealed is mounted read-only, memory of its own is not', () => {
  const kindOf = (sharing: 'shared' | 'private') =>
    viewOf({ ...config, ram: { ...config.ram, sharing } }, options).mounts.find(({ to }) => to === '/ram')?.kind;
  assert.deepEqual([kindOf('private'), kindOf('shared')], ['read', 'write']);
});

test('/dev/kvm is there with KVM only', () => {
  const devices = (accelerator: 'kvm' | 'tcg') =>
    viewOf(config, { ...options, accelerator })
      .mounts.filter(({ kind }) => kind === 'device')
      .map(({ to }) => to);
  assert.deepEqual(devices('tcg'), ['/dev/null', '/dev/urandom']);
  assert.deepEqual(devices('kvm'), ['/dev/null', '/dev/urandom', '/dev/kvm']);
});
