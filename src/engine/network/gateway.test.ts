/** The supervision of the gateway, with the real program. Guests' VMMs are played by connections to their sockets. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { link, mkdir, mkdtemp, open, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';
import { loadConfig } from '../../config.ts';
import { MachineError, silentLogger } from '../../lib/index.ts';
import type { Egress } from '../egress.ts';
import { findRuntime } from '../load-runtime.ts';
import { openGateway } from './gateway.ts';
import type { Network } from './network.ts';
import { endGateway, findGateway, lockHolder } from './process.ts';
import type { NetworkSettings } from './settings.ts';

const { cacheDir } = loadConfig({}, process.env);
const runtime = findRuntime(cacheDir);
const skip = runtime?.gateway === undefined ? 'set-up has not run: no gateway' : false;

const egress: Egress = {
  policy: { rules: [{ id: 'inet', kind: 'internet', protocols: ['tcp'] }], dns: 'off' },
  labels: { principal: 'p', imageArn: 'i', imageVersion: '1.0' },
};
const nothing: Egress = { ...egress, policy: { rules: [], dns: 'off' } };

interface Home {
  readonly stateDir: string;
  open(options?: {
    settings?: NetworkSettings;
    mayLive?: (guest: string) => boolean;
    program?: string;
    isBare?: boolean;
  }): Network;
  pid(): Promise<number>;
}

/** A state folder whose gateways are all closed at the end. Deeper than a unix socket's path may be long. */
async function home(use: (home: Home) => Promise<void>): Promise<void> {
  assert.ok(runtime);
  const { gateway, jail } = runtime;
  const root = await mkdtemp(path.join(tmpdir(), 'rk-gateway-'));
  const stateDir = path.join(root, 'state'.repeat(20), 'deep'.repeat(20));
  const opened: Network[] = [];
  try {
    await use({
      stateDir,
      open: ({ settings = { upstreams: ['127.0.0.1:9'] }, mayLive = () => true, ...given } = {}) => {
        const network = openGateway({
          stateDir,
          program: given.program ?? gateway.program,
          bubblewrap: given.isBare === true ? undefined : jail.bubblewrap,
          toolsRoot: jail.root,
          settings,
          log: silentLogger,
          mayLive,
        });
        opened.push(network);
        return network;
      },
      pid: async () => (await findGateway(path.join(stateDir, 'gateway.json')))?.pid ?? 0,
    });
  } finally {
    for (const network of opened) await network[Symbol.asyncDispose]();
    // One that still has guests outlives its engine.
    const record = path.join(stateDir, 'gateway.json');
    const left = await findGateway(record);
    if (left !== undefined) await endGateway(left, record);
    await rm(root, { recursive: true, force: true });
  }
}

/** As a VMM does: connects, and tells when the other end is gone. */
async function plugIn(stateDir: string, guest: string): Promise<Socket> {
  await using dir = await open(path.join(stateDir, 'gateway/net', guest), 'r');
  const socket = connect(`/proc/self/fd/${dir.fd}/net.sock`).on('error', () => {});
  await once(socket, 'connect');
  return socket;
}

describe('the gateway under supervision', { skip }, () => {
  test('it starts by itself, takes guests, and ends with the engine', async () => {
    await home(async ({ stateDir, open, pid }) => {
      const network = open();
      const attached = await network.attach('g-1', egress, {});
      assert.deepEqual(attached, { socketDir: path.join(stateDir, 'gateway/net/g-1'), link: 'up' });
      assert.ok(existsSync(path.join(stateDir, 'gateway/net/g-1/net.sock')));
      assert.deepEqual(await network.attach('g-2', nothing, {}), {
        socketDir: path.join(stateDir, 'gateway/net/g-2'),
        link: 'down',
      });
      const gateway = await pid();
      assert.ok(gateway > 1);
      await network.detach('g-1');
      await network.detach('g-2');
      assert.equal(existsSync(path.join(stateDir, 'gateway/net/g-1')), false);
      await network[Symbol.asyncDispose]();
      assert.equal(await pid(), 0);
      await assert.rejects(network.attach('g-3', egress, {}), MachineError);
    });
  });

  test('no other user enters what it keeps', async () => {
    await home(async ({ stateDir, open }) => {
      const network = open();
      await network.attach('g', egress, {});
      for (const [file, mode] of [
        ['gateway', 0o700],
        ['gateway/control.sock', 0o600],
        ['logs/flows', 0o700],
        ['gateway.json', 0o600],
      ] as const) {
        assert.equal((await stat(path.join(stateDir, file))).mode & 0o777, mode, file);
      }
      await network.detach('g');
    });
  });

  test('when it is killed another one takes over, with all guests, in the same folders', async () => {
    await home(async ({ stateDir, open, pid }) => {
      const network = open();
      await Promise.all(['a', 'b'].map((guest) => network.attach(guest, egress, {})));
      const before = { pid: await pid(), folder: (await stat(path.join(stateDir, 'gateway/net/a'))).ino };
      process.kill(before.pid, 'SIGKILL');
      await network.update('a', nothing);
      assert.notEqual(await pid(), before.pid);
      // Machines have the folder mounted: another one in its place would be out of their reach.
      assert.equal((await stat(path.join(stateDir, 'gateway/net/a'))).ino, before.folder);
      (await plugIn(stateDir, 'b')).destroy();
      for (const guest of ['a', 'b']) await network.detach(guest);
    });
  });

  test('one that hangs does not hold up the end', async () => {
    await home(async ({ open, pid }) => {
      const network = open();
      await network.attach('g', egress, {});
      await network.detach('g');
      process.kill(await pid(), 'SIGSTOP');
      await network[Symbol.asyncDispose]();
      assert.equal(await pid(), 0);
    });
  });

  test('it outlives a server with machines, and the next one takes it over without a cut', async () => {
    await home(async ({ stateDir, open, pid }) => {
      const first = open();
      for (const guest of ['stays', 'goes']) await first.attach(guest, egress, {});
      const before = await pid();
      const plug = await plugIn(stateDir, 'stays');
      let isCut = false;
      plug.on('close', () => {
        isCut = true;
      });
      await first[Symbol.asyncDispose]();
      assert.equal(await pid(), before, 'machines are attached');
      const second = open({ mayLive: (guest) => guest === 'stays' });
      await second.attach('stays', nothing, { isRunning: true });
      await second.attach('new', egress, {});
      assert.equal(await pid(), before);
      assert.equal(existsSync(path.join(stateDir, 'gateway/net/goes')), false, 'nobody owns it');
      assert.equal(isCut, false);
      plug.destroy();
      for (const guest of ['stays', 'new']) await second.detach(guest);
    });
  });

  test('what a guest left that was detached while there was no gateway goes with the next one', async () => {
    await home(async ({ stateDir, open, pid }) => {
      // Its run folder is removed a moment later.
      const network = open({ mayLive: () => true });
      await network.attach('stays', egress, {});
      await network.attach('goes', egress, {});
      const before = await pid();
      process.kill(before, 'SIGKILL');
      while ((await pid()) === before) await new Promise(setImmediate);
      await network.detach('goes');
      // Waits for the successor.
      await network.attach('new', egress, {});
      assert.deepEqual((await readdir(path.join(stateDir, 'gateway/net'))).sort(), ['new', 'stays']);
      for (const guest of ['stays', 'new']) await network.detach(guest);
    });
  });

  test('one that stands still is replaced while a launch waits for it', async () => {
    await home(async ({ open, pid }) => {
      const network = open();
      await network.attach('before', egress, {});
      const frozen = await pid();
      process.kill(frozen, 'SIGSTOP');
      await network.attach('new', egress, {});
      assert.notEqual(await pid(), frozen);
      for (const guest of ['before', 'new']) await network.detach(guest);
    });
  });

  test('who gave up or went while the gateway was starting is not attached to it', async () => {
    await home(async ({ stateDir, open }) => {
      const network = open();
      const patience = new AbortController();
      const given = network.attach('gave-up', egress, { signal: patience.signal });
      patience.abort(new Error('terminated'));
      await assert.rejects(given, /terminated/);
      await network.attach('went', egress, { isRunning: true });
      await network.detach('went');
      // Waits for the gateway, behind the others.
      await network.attach('new', egress, {});
      assert.deepEqual(await readdir(path.join(stateDir, 'gateway/net')), ['new']);
      await network.detach('new');
    });
  });

  test('one that is not on record, because its server was killed as it started it, is replaced', async () => {
    await home(async ({ stateDir, open, pid }) => {
      const first = open();
      await first.attach('g', egress, {});
      const before = await pid();
      await first[Symbol.asyncDispose]();
      await rm(path.join(stateDir, 'gateway.json'));
      const second = open();
      await second.attach('g', egress, {});
      assert.notEqual(await pid(), before);
      assert.throws(() => process.kill(before, 0), { code: 'ESRCH' });
      await second.detach('g');
    });
  });

  test('a link in place of its lock leads to nobody', async () => {
    await home(async ({ stateDir, open, pid }) => {
      const network = open();
      await network.attach('g', egress, {});
      const dir = path.join(stateDir, 'gateway');
      assert.equal((await lockHolder({ dir }))?.pid, await pid());
      for (const make of [symlink, link]) {
        const planted = await mkdtemp(path.join(tmpdir(), 'rk-gateway-'));
        await make(path.join(dir, 'lock'), path.join(planted, 'lock'));
        assert.equal(await lockHolder({ dir: planted }), undefined);
        await rm(planted, { recursive: true });
      }
      await network.detach('g');
    });
  });

  test('one with other settings is replaced', async () => {
    await home(async ({ open, pid }) => {
      const first = open();
      await first.attach('g', egress, {});
      const before = await pid();
      await first[Symbol.asyncDispose]();
      const second = open({ settings: { upstreams: ['127.0.0.1:10'], reachable: ['10.9.0.0/16'] } });
      await second.attach('g', egress, {});
      assert.notEqual(await pid(), before);
      await second.detach('g');
    });
  });

  test('a process that has the id of a gateway of old is left alone', async () => {
    await home(async ({ stateDir, open, pid }) => {
      const stranger = { pid: process.pid, startedAtTicks: 1, program: '', config: '', confinement: 'bare' };
      await mkdir(stateDir, { recursive: true });
      await writeFile(path.join(stateDir, 'gateway.json'), JSON.stringify(stranger));
      const network = open();
      await network.attach('g', egress, {});
      assert.notEqual(await pid(), process.pid);
      await network.detach('g');
    });
  });

  test('a policy it cannot read is refused with its sentence, and what held before holds on', async () => {
    await home(async ({ open }) => {
      const network = open();
      const rule = { id: 'x', kind: 'cidr', cidr: 'nonsense', protocols: ['tcp'], ports: [[1, 2]] } as const;
      const broken: Egress = { ...egress, policy: { rules: [rule], dns: 'off' } };
      await assert.rejects(network.attach('g', broken, {}), { kind: 'failed', message: /refused: .*nonsense/ });
      await assert.rejects(network.update('g', egress), { kind: 'failed' });
      await network.attach('g', egress, {});
      await assert.rejects(network.update('g', broken), { kind: 'failed' });
      await network.update('g', nothing);
      await network.detach('g');
    });
  });

  test('without bubblewrap it still is not root', async () => {
    await home(async ({ open, pid, stateDir }) => {
      const network = open({ isBare: true });
      await network.attach('g', egress, {});
      assert.doesNotMatch(await readFile(`/proc/${await pid()}/status`, 'utf8'), /^Uid:\t0/m);
      (await plugIn(stateDir, 'g')).destroy();
      await network.detach('g');
    });
  });

  test('what cannot be started is tried again, and says why to whoever waits', async () => {
    await home(async ({ stateDir, open }) => {
      const network = open({ program: '/bin/false' });
      const patience = AbortSignal.timeout(1500);
      await assert.rejects(network.attach('g', egress, { signal: patience }));
      await network[Symbol.asyncDispose]();
      assert.equal(existsSync(path.join(stateDir, 'gateway/control.sock')), false);
    });
  });

  test('the environment of the server stays with the server', async () => {
    await home(async ({ open, pid }) => {
      process.env.REKINDLE_TEST_SECRET = 'not for the gateway';
      const network = open();
      await network.attach('g', egress, {});
      delete process.env.REKINDLE_TEST_SECRET;
      assert.doesNotMatch(await readFile(`/proc/${await pid()}/environ`, 'utf8'), /not for the gateway/);
      await network.detach('g');
    });
  });
});
