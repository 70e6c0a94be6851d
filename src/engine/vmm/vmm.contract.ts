/**
 * What every VMM driver promises, whichever VM is behind it. What a guest remembers is seen by its link: the secret it takes is
 * part of its memory, and each restore step changes it.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { type GuestLink, openLink, type RestoreStep } from '../../guest/index.ts';
import { limitsOf } from '../jail/limits.ts';
import type { PageRun, Vmm, VmmConfig, VmmDriver } from './vmm.ts';

export interface Subject {
  readonly driver: VmmDriver;
  readonly boot: Exclude<VmmConfig['boot'], 'restore'>;
  /** Ends the VMM behind its owner's back. */
  crash(vmm: Vmm): void;
}

const MEMORY_MIB = 512;
const OPEN_MS = 60_000;
/** Long enough for any answer, short enough to wait for none. */
const SILENCE_MS = 1500;

export function vmmContract(name: string, skip: string | false, subjectOf: () => Promise<Subject>): void {
  describe(`the VMM contract: ${name}`, { skip }, () => {
    const stack = new AsyncDisposableStack();
    const secret = hex();
    let subject: Subject;
    let root: string;
    let ram: string;
    let state: string;
    let started = 0;

    before(async () => {
      subject = await subjectOf();
      root = await mkdtemp(path.join(tmpdir(), 'rk-vmm-'));
      stack.defer(() => rm(root, { recursive: true, force: true }));
      ram = path.join(root, 'ram');
      state = path.join(root, 'state');
      await using vmm = await start('shared', subject.boot);
      await using link = await openLink({
        socketPath: vmm.linkSocketPath,
        secret,
        timeoutMs: OPEN_MS,
        patienceMs: 5000,
      });
      await link.ping({ timeoutMs: OPEN_MS });
      await link[Symbol.asyncDispose]();
      await vmm.pause();
      await vmm.saveState(state);
    });
    after(() => stack.disposeAsync());

    async function start(sharing: 'shared' | 'private', boot: VmmConfig['boot'], ramPath = ram): Promise<Vmm> {
      const runDir = path.join(root, `run-${++started}`);
      await mkdir(runDir, { mode: 0o700 });
      const disks = (['root', 'spare1', 'spare2', 'spare3'] as const).map((serial) => ({
        serial,
        source: { kind: 'empty', bytes: 1024 ** 3 } as const,
      }));
      const config = { id: `contract-${started}`, runDir, memoryMiB: MEMORY_MIB, cpus: 1, network: 'down' } as const;
      const limits = limitsOf(config);
      return subject.driver.start({ ...config, limits, ram: { path: ramPath, sharing }, disks, boot }, {});
    }

    function restoreStep(nextSecret: string): RestoreStep {
      return { wallClockMs: Date.now(), seed: randomBytes(64), nextSecret };
    }

    /** Restores and opens the link with a step that gives the guest `next` as its secret. */
    async function restored(vmm: Vmm, next: string, statePath = state, current = secret): Promise<GuestLink> {
      const socketPath = vmm.linkSocketPath;
      const opening = openLink({ socketPath, secret: current, restore: restoreStep(next), timeoutMs: OPEN_MS });
      opening.catch(() => {});
      await vmm.restore(statePath);
      return opening;
    }

    test('one saved state is restored by many, each with a memory of its own', async () => {
      await using one = await start('private', 'restore');
      await using two = await start('private', 'restore');
      await using oneLink = await restored(one, hex());
      await using twoLink = await restored(two, hex());
      assert.ok((await oneLink.ping({ timeoutMs: OPEN_MS })) >= 0);
      assert.ok((await twoLink.ping({ timeoutMs: OPEN_MS })) >= 0);
    });

    test('a paused VM is silent and goes on where it was', async () => {
      await using vmm = await start('private', 'restore');
      const next = hex();
      const link = await restored(vmm, next);
      await link[Symbol.asyncDispose]();
      await vmm.pause();
      const request = { socketPath: vmm.linkSocketPath, secret: next };
      await assert.rejects(openLink({ ...request, timeoutMs: SILENCE_MS }), { kind: 'timeout' });
      await vmm.continue();
      await using again = await openLink({ ...request, timeoutMs: OPEN_MS });
      assert.equal(again.generation, 1);
    });

    test('changed memory is saved apart and put back', async () => {
      const delta: Buffer[] = [];
      const later = path.join(root, 'later');
      const next = hex();
      {
        await using vmm = await start('private', 'restore');
        const link = await restored(vmm, next);
        await link[Symbol.asyncDispose]();
        await vmm.pause();
        assert.ok(vmm.changedMemory, 'a private mapping can be saved apart');
        assertPages(await vmm.changedMemory.touched());
        const sink = { write: async (...parts: Buffer[]) => void delta.push(Buffer.concat(parts)) };
        const [bytes] = await Promise.all([vmm.changedMemory.save(sink), vmm.saveState(later)]);
        assert.ok(bytes > 0 && bytes < MEMORY_MIB * 2 ** 20);
      }
      await using vmm = await start('private', 'restore');
      await vmm.changedMemory?.load(Readable.from(delta));
      await using link = await restored(vmm, hex(), later, next);
      assert.ok((await link.ping({ timeoutMs: OPEN_MS })) >= 0);
    });

    test('a state that is none ends the VMM with a reason', async () => {
      const broken = path.join(root, 'broken');
      await writeFile(broken, 'nothing of the kind');
      await using vmm = await start('private', 'restore');
      await assert.rejects(vmm.restore(broken), { kind: 'exited' });
      assert.match((await vmm.exited).message, /ended/);
    });

    test('a VMM that cannot start says why and leaves nothing', async () => {
      const starting = start('private', 'restore', path.join(root, 'nowhere/ram'));
      await assert.rejects(starting, (error: { kind?: string; evidence?: string }) => {
        assert.equal(error.kind, 'exited');
        assert.match(error.evidence ?? '', /nowhere/);
        return true;
      });
    });

    test('a crash is told, and what is asked afterwards fails', async () => {
      await using vmm = await start('private', 'restore');
      await using _link = await restored(vmm, hex());
      subject.crash(vmm);
      assert.match((await vmm.exited).message, /ended/);
      await assert.rejects(vmm.pause(), { kind: 'exited' });
    });

    test('disposing ends it, twice as well as once', async () => {
      const vmm = await start('private', 'restore');
      await vmm[Symbol.asyncDispose]();
      await vmm[Symbol.asyncDispose]();
      assert.match((await vmm.exited).message, /ended/);
      await assert.rejects(openLink({ socketPath: vmm.linkSocketPath, secret, timeoutMs: 50 }), { kind: 'timeout' });
    });
  });
}

function assertPages(runs: readonly PageRun[]): void {
  let end = 0;
  for (const { firstPage, pages } of runs) {
    assert.ok(firstPage >= end && pages > 0, 'in order, each once');
    end = firstPage + pages;
  }
  assert.ok(end > 0 && end <= MEMORY_MIB * 256, `some of the memory was touched, up to page ${end}`);
}

function hex(): string {
  return randomBytes(32).toString('hex');
}
