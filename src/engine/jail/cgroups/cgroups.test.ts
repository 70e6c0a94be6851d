import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { limitsOf } from '../limits.ts';
import { cgroupChecks } from './checks.ts';
import { deviceName } from './device.ts';
import { type CgroupHost, parseCgroups } from './find.ts';
import { Cgroups } from './groups.ts';
import { findPlaces, SERVER_LEAF } from './places.ts';
import { valuesOf } from './values.ts';

const V1 = [
  '30 23 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct',
  '31 23 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory',
  '32 23 0:28 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids',
  '33 23 0:29 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio',
  '34 23 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw',
].join('\n');
const V2 = '30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate';

const limits = limitsOf({ memoryMiB: 4096, cpus: 2 });

test('with v1 each controller has a folder of its own, below the group the server is in', () => {
  const own = '9:pids:/\n4:memory:/system.slice/rekindle.service\n2:cpu,cpuacct:/\n7:blkio:/\n0::/';
  assert.deepEqual(parseCgroups(V1, own), {
    version: 1,
    folders: {
      cpu: '/sys/fs/cgroup/cpu',
      memory: '/sys/fs/cgroup/memory/system.slice/rekindle.service',
      pids: '/sys/fs/cgroup/pids',
      io: '/sys/fs/cgroup/blkio',
    },
  });
});

test('with v2 all controllers share one', () => {
  const found = parseCgroups(V2, '0::/system.slice/rekindle.service');
  assert.equal(found?.version, 2);
  assert.equal(found.folders.memory, '/sys/fs/cgroup/system.slice/rekindle.service');
  assert.equal(found.mountPoint, '/sys/fs/cgroup');
});

test("in a container the mount begins at the container's group", () => {
  const mount = '30 23 0:26 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory';
  assert.equal(parseCgroups(mount, '4:memory:/docker/abc')?.folders.memory, '/sys/fs/cgroup/memory');
  assert.equal(parseCgroups(mount, '4:memory:/docker/abc/sub')?.folders.memory, '/sys/fs/cgroup/memory/sub');
});

test('a host without cgroups has none, and doctor says so item by item', async () => {
  assert.equal(parseCgroups('', ''), undefined);
  const checks = cgroupChecks(await findPlaces(undefined, { isDry: true }));
  assert.deepEqual(
    checks.map(({ id, ok }) => `${id} ${ok}`),
    ['cgroup-cpu degraded', 'cgroup-memory degraded', 'cgroup-pids degraded', 'cgroup-io degraded'],
  );
});

test('v1 holds all but buffered writes, which doctor says', () => {
  const checks = cgroupChecks({ version: 1, folders: { cpu: '/c', memory: '/m', pids: '/p', io: '/b' } });
  assert.deepEqual(
    checks.map(({ ok }) => ok),
    ['yes', 'yes', 'yes', 'degraded'],
  );
});

test('CPU is capped at the vCPUs and weighed by the size class', () => {
  assert.deepEqual(text(1, 'cpu'), {
    'cpu.cfs_period_us': '100000',
    'cpu.cfs_quota_us': '200000',
    'cpu.cfs_burst_us': '200000',
    'cpu.shares': '512',
  });
  assert.deepEqual(text(2, 'cpu'), { 'cpu.max': '200000 100000', 'cpu.max.burst': '200000', 'cpu.weight': '50' });
});

test("memory is the guest's peak with translated code and the VMM's own", () => {
  const bytes = String((4096 + 256 + 256) * 2 ** 20);
  assert.equal(text(1, 'memory')['memory.limit_in_bytes'], bytes);
  assert.equal(text(2, 'memory')['memory.max'], bytes);
});

test('I/O is capped on the disk that holds the files, where it is one', () => {
  assert.deepEqual(valuesOf(1, 'io', limits, undefined), []);
  assert.match(text(2, 'io')['io.max'] ?? '', /^254:0 rbps=\d+ wbps=\d+ riops=\d+ wiops=\d+$/);
  assert.match(text(1, 'io')['blkio.throttle.write_bps_device'] ?? '', /^254:0 \d+$/);
});

test('device numbers are written as the kernel names them', () => {
  assert.equal(deviceName(0xfe00n), '254:0');
  assert.equal(deviceName(0x10301n), '259:1');
});

test('the server makes room for groups below its own by moving into a leaf', async () => {
  await using host = await v2Folder({ procs: `${process.pid}\n` });
  const places = await findPlaces(host, { isDry: false });
  assert.equal(await readFile(path.join(host.folder, SERVER_LEAF, 'cgroup.procs'), 'utf8'), `${process.pid}`);
  // Nobody answers the write of a plain file as the kernel would: what was handed down is what the file says.
  assert.equal(await readFile(path.join(host.folder, 'cgroup.subtree_control'), 'utf8'), '+io');
  assert.deepEqual(places.folders, {});
});

test('doctor predicts that and changes nothing', async () => {
  await using host = await v2Folder({ procs: `${process.pid}\n` });
  const places = await findPlaces(host, { isDry: true });
  assert.deepEqual(Object.keys(places.folders), ['cpu', 'memory', 'pids', 'io']);
  assert.equal(await readFile(path.join(host.folder, 'cgroup.subtree_control'), 'utf8'), '');
});

test('a group that others live in is left alone', async () => {
  await using host = await v2Folder({ procs: `${process.pid}\n1\n` });
  assert.deepEqual((await findPlaces(host, { isDry: false })).folders, {});
});

test('a server that a service put into its own leaf makes groups beside it', async () => {
  await using host = await v2Folder({ procs: '', handed: 'cpu memory pids io' });
  const leaf = path.join(host.folder, SERVER_LEAF);
  const folders = { cpu: leaf, memory: leaf, pids: leaf, io: leaf };
  const places = await findPlaces({ version: 2, folders }, { isDry: false });
  assert.equal(places.folders.memory, host.folder);
});

test('a limit that the kernel was built without is left out, the others hold', async () => {
  await using host = await v2Folder({ procs: '', handed: 'cpu memory pids io' });
  const missing = path.join(host.folder, 'gone');
  const places = await findPlaces(
    { version: 1, folders: { cpu: host.folder, memory: missing, pids: host.folder } },
    { isDry: false },
  );
  assert.deepEqual(Object.keys(places.folders), ['cpu', 'pids']);
});

test("a machine's group holds its limits and whoever is put into it", async () => {
  await using host = await v2Folder({ procs: '', handed: 'cpu memory pids io' });
  await using groups = await Cgroups.open(await findPlaces(host, { isDry: false }), host.folder);
  const group = await groups.create('vm-1', limits);
  const [folder = ''] = group.folders;
  assert.match(folder, /\/rekindle\/[0-9a-f]{12}\/vm-1$/);
  assert.equal(await readFile(path.join(folder, 'pids.max'), 'utf8'), String(limits.tasks));
  await group.add(4711);
  assert.equal(await readFile(path.join(folder, 'cgroup.procs'), 'utf8'), '4711');
});

test('a machine that somebody waits for weighs more, until it is there or too late', { timeout: 30_000 }, async (t) => {
  await using host = await v2Folder({ procs: '', handed: 'cpu memory pids io' });
  await using groups = await Cgroups.open(await findPlaces(host, { isDry: false }), host.folder);
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const made = groups.create('vm-1', limits);
  const weight = async () => readFile(path.join((await made).folders[0] ?? '', 'cpu.weight'), 'utf8');
  const becomes = async (expected: string) => {
    while ((await weight()) !== expected) await new Promise(setImmediate);
  };
  const first = groups.hurry('vm-1', limits, made);
  await becomes('3200');
  first[Symbol.dispose]();
  await becomes('50');
  using _second = groups.hurry('vm-1', limits);
  await becomes('3200');
  t.mock.timers.tick(5000);
  await becomes('50');
});

test('nothing waits for a machine without groups to hurry', async () => {
  await using host = await v2Folder({ procs: '', handed: 'cpu memory pids io' });
  await using groups = await Cgroups.open(await findPlaces(host, { isDry: false }), host.folder);
  using _gone = groups.hurry('vm-1', limits);
  using _refused = groups.hurry('vm-2', limits, Promise.reject(new Error('no room')));
  await new Promise(setImmediate);
});

function text(version: 1 | 2, controller: 'cpu' | 'memory' | 'io'): Record<string, string> {
  return Object.fromEntries(
    valuesOf(version, controller, limits, '254:0').map(({ file, text: value }) => [file, value]),
  );
}

/** A folder with the files of a v2 group. */
async function v2Folder({
  procs,
  handed = '',
}: {
  procs: string;
  handed?: string;
}): Promise<CgroupHost & AsyncDisposable & { folder: string }> {
  const folder = await mkdtemp(path.join(tmpdir(), 'rk-cgroup-'));
  const files = {
    'cgroup.controllers': 'cpuset cpu io memory pids\n',
    'cgroup.subtree_control': handed,
    'cgroup.procs': procs,
    'cgroup.type': 'domain\n',
  };
  for (const [name, content] of Object.entries(files)) await writeFile(path.join(folder, name), content);
  await mkdir(path.join(folder, SERVER_LEAF));
  return {
    version: 2,
    folders: { cpu: folder, memory: folder, pids: folder, io: folder },
    folder,
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  };
}
