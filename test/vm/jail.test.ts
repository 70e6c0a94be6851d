/**
 * The jail as the kernel sees it: what the VMMs of running microVMs, of a seal boot and of the builder may do, see and use, read
 * from /proc; and that nothing of it outlives them. What this host cannot give, and doctor says so, is not asked for.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { loadConfig } from '../../src/config.ts';
import { type HostCheck, inspectHost, loadRuntime } from '../../src/engine/index.ts';
import { endpointClient } from '../support/endpoint.ts';
import { buildImage, counterApp, untilState } from '../support/images.ts';
import { factsOf, NAMESPACES, namespacesOf, type ProcessFacts, recordedVmms } from '../support/process-facts.ts';
import { startServer, type TestServer } from '../support/server.ts';

const WATCH_MS = 20;

interface Seen extends ProcessFacts {
  readonly id: string;
  readonly groups: readonly string[];
  readonly supervisorPid: number;
}

describe('the jail of a VMM', () => {
  let server: TestServer;
  let checks: readonly HostCheck[];
  let imageArn: string;
  /** Of the two that make an image, looked at while they ran. */
  const makers: Seen[] = [];
  const microvms: { microvmId: string; endpoint: string }[] = [];

  before(async () => {
    // What builds leave is looked at.
    server = await startServer({ args: ['--builder-keep', '0'] });
    const { cacheDir } = loadConfig({}, process.env);
    checks = await inspectHost({ runtime: loadRuntime(cacheDir), stateDir: server.stateDir });
    const watch = setInterval(() => makers.push(...newcomers(makers)), WATCH_MS);
    const image = await buildImage(server, 'counter', counterApp).finally(() => clearInterval(watch));
    assert.equal(image.state, 'CREATED', `${image.stateReason}\n${server.log()}`);
    imageArn = image.imageArn;
    // A version can be launched while its rehearsal goes on.
    while (readdirSync(join(server.stateDir, 'run')).length > 0) await delay(WATCH_MS);
    for (let i = 0; i < 2; i++) {
      const { microvmId = '', endpoint = '' } = await server.microvms.runMicrovm({ imageIdentifier: imageArn });
      microvms.push({ microvmId, endpoint });
      using client = await endpointClient(server, { microvmId, endpoint });
      assert.equal((await client.get('/count')).body, '1');
    }
  });
  after(() => server?.[Symbol.asyncDispose]());

  /** VMMs that are not in `known` yet and have come so far that they are QEMU. */
  function newcomers(known: readonly Seen[]): Seen[] {
    return [...recordedVmms(server.stateDir)].flatMap(([id, record]) => {
      if (known.some(({ pid }) => pid === record.pid)) return [];
      try {
        const facts = factsOf(record.pid);
        const isQemu = facts.command[0]?.includes('qemu') === true && facts.status.Seccomp === '2';
        return isQemu ? [{ ...facts, id, groups: record.cgroups, supervisorPid: record.supervisorPid }] : [];
      } catch {
        return [];
      }
    });
  }

  function running(): Seen[] {
    const seen = newcomers([]);
    assert.deepEqual(seen.map(({ id }) => id).sort(), microvms.map(({ microvmId }) => microvmId).sort());
    return seen;
  }

  /** Both microVMs, the builder and the machine that was sealed. */
  function all(): Seen[] {
    assert.ok(makers.length >= 2, 'a builder and a seal boot were seen');
    return [...makers, ...running()];
  }

  function has(id: HostCheck['id']): boolean {
    return checks.some((check) => check.id === id && check.ok === 'yes');
  }

  test('it has a user of its own and no right beyond', () => {
    const users = all().map(({ status }) => {
      for (const ids of [status.Uid, status.Gid]) assert.equal(new Set(ids?.split('\t')).size, 1, `${ids}`);
      for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'])
        assert.match(status[set] ?? '', /^0+$/, set);
      assert.equal(status.NoNewPrivs, '1');
      assert.equal(status.Groups, '');
      return status.Uid?.split('\t')[0];
    });
    if (!has('users')) return;
    assert.equal(new Set(users).size, users.length, users.join());
    for (const uid of users) assert.ok(Number(uid) >= 0x4000_0000 && Number(uid) <= 0x4fff_ffff, `${uid}`);
  });

  test('it filters its system calls', () => {
    if (has('seccomp')) for (const { status } of all()) assert.equal(status.Seccomp, '2');
  });

  test('it shares no namespace with the server, nor with another VMM', () => {
    if (!has('namespaces')) return;
    const own = NAMESPACES.filter((name) => name !== 'user' || !has('users'));
    const servers = namespacesOf(server.pid);
    for (const { namespaces } of all()) {
      for (const name of own) assert.notEqual(namespaces[name], servers[name], name);
    }
    const [one, other] = running();
    for (const name of own) assert.notEqual(one?.namespaces[name], other?.namespaces[name], name);
  });

  test('it sees a read-only root of its own, its own files, and nothing else', () => {
    if (!has('namespaces')) return;
    for (const { mounts, root } of all()) {
      assert.deepEqual(root, ['bin', 'boot', 'dev', 'disks', 'firmware', 'lib', 'lib64', 'net', 'proc', 'ram', 'run']);
      for (const { place, root: source, options, type } of mounts) {
        assert.ok(options.includes('nosuid'), place);
        if (place.startsWith('/dev/')) {
          assert.match(place, /^\/dev\/(null|urandom|kvm)$/);
          continue;
        }
        assert.ok(options.includes('nodev'), place);
        assert.notEqual(type, 'proc');
        const isWritable = options.includes('rw');
        assert.equal(
          isWritable,
          /^\/(run\/vm|disks\/[a-z0-9]+|ram)$/.test(place) && !isSealed(source),
          `${place} ${source}`,
        );
      }
      assert.equal(mounts[0]?.place, '/');
    }
  });

  test("a microVM's VMM writes to its own disk and folder only", () => {
    if (!has('namespaces')) return;
    for (const { id, mounts } of running()) {
      const written = mounts.filter(({ options, place }) => options.includes('rw') && !place.startsWith('/dev/'));
      assert.deepEqual(written.map(({ place }) => place).sort(), ['/disks/root', '/run/vm']);
      for (const { root } of written) assert.ok(root.includes(`/${id}/`), root);
    }
  });

  test('it holds nothing open but its files, sockets and events', () => {
    if (!has('namespaces')) return;
    const ordinary = /^(socket:|anon_inode:|\/dev\/(null|urandom|kvm)$|\/ram$|\/disks\/|\/boot\/)/;
    for (const { openFiles } of all()) {
      assert.deepEqual(
        openFiles.filter((file) => !ordinary.test(file)),
        [],
      );
    }
  });

  test('it is told nothing of the host: neither paths nor settings', () => {
    if (!has('namespaces')) return;
    for (const { command, environment } of all()) {
      const paths = command.join(' ').match(/(?<![\w.)-])\/[\w./-]+/g) ?? [];
      for (const path of paths) assert.match(path, /^\/(bin|boot|dev|disks|firmware|net|ram|run)(\/|$)/);
      assert.ok(paths.length > 3, paths.join());
      assert.deepEqual(
        environment.filter((entry) => !/^(PWD|LD_LIBRARY_PATH)=/.test(entry)),
        [],
      );
    }
  });

  test('its processes, files and file sizes are limited, and it dumps no core', () => {
    for (const { limits } of all()) {
      assert.deepEqual(limits['Max core file size'], ['0', '0']);
      assert.deepEqual(limits['Max open files'], ['1024', '1024']);
      assert.ok(Number(limits['Max file size']?.[1]) < 64 * 2 ** 30, `${limits['Max file size']}`);
      if (has('users')) assert.ok(Number(limits['Max processes']?.[1]) < 200, `${limits['Max processes']}`);
    }
  });

  test('its cgroups hold it, at the size of its guest', () => {
    for (const { id, groups, cgroups } of running()) {
      const expected: [HostCheck['id'], string, Record<string, string>][] = [
        ['cgroup-cpu', 'cpu', { 'cpu.cfs_quota_us': '100000', 'cpu.shares': '256', 'cpu.max': '100000 100000' }],
        ['cgroup-memory', 'memory', { 'memory.limit_in_bytes': PEAK, 'memory.max': PEAK }],
        ['cgroup-pids', 'pids', { 'pids.max': '97' }],
      ];
      for (const [check, controller, values] of expected) {
        if (!has(check)) continue;
        const group = cgroups[controller] ?? cgroups[''] ?? '';
        assert.match(group, new RegExp(`/rekindle/[0-9a-f]{12}/${id}$`), controller);
        const folder = groups.find(
          (path) => path.endsWith(group) && existsSync(join(path, Object.keys(values)[0] ?? '')),
        );
        const files = groups.flatMap((path) => Object.keys(values).map((name) => join(path, name))).filter(existsSync);
        assert.ok(files.length > 0, `${controller}: ${groups.join()} ${folder}`);
        for (const file of files) {
          assert.equal(readFileSync(file, 'utf8').trim(), values[file.slice(file.lastIndexOf('/') + 1)], file);
        }
      }
    }
  });

  test('nothing of it is left when its microVM is terminated', async () => {
    const seen = running();
    for (const { microvmId } of microvms) {
      await server.microvms.terminateMicrovm({ microvmIdentifier: microvmId });
      await untilState(server, microvmId, 'TERMINATED').catch((error: Error) => {
        if (!error.message.includes('is TERMINATED')) throw error;
      });
    }
    for (const { id, pid, supervisorPid, groups } of [...makers, ...seen]) {
      for (const number of [pid, supervisorPid])
        assert.ok(!existsSync(`/proc/${number}`), `process ${number} of ${id}`);
      for (const group of groups) assert.ok(!existsSync(group), group);
      for (const folder of ['run', 'microvms'])
        assert.ok(!existsSync(join(server.stateDir, folder, id)), `${folder}/${id}`);
    }
    assert.deepEqual(readdirSync(join(server.stateDir, 'run')), []);
  });

  test("the server's own groups end with it", async () => {
    const servers = new Set(makers.flatMap(({ groups }) => groups.map((group) => join(group, '..'))));
    assert.equal(await server.stop(), 0);
    for (const group of servers) assert.ok(!existsSync(group), group);
  });
});

/** 2 GiB, translated code and the VMM. */
const PEAK = String((2048 + 512) * 2 ** 20);

/** Sealed parts and bases are never written, wherever they are mounted. */
function isSealed(source: string): boolean {
  return /\/(snapshot\/|cache$|base-)/.test(source);
}
