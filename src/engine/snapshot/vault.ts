/**
 * Sealed snapshots as VMMs can load them. A plain one is loaded from its own folder; the memory and device state of an
 * encrypted one are decrypted into a folder in memory when it is first launched, once for all its machines, and forgotten a while
 * after the last of them ended.
 *
 * Invariant: what lies under its name there is complete; a machine that maps it keeps it there.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, rename } from 'node:fs/promises';
import path from 'node:path';
import { type Clock, KeyedLock, type Logger, messageOf } from '../../lib/index.ts';
import { remove } from '../folders.ts';
import { changesPassphrase, type Manifest } from './manifest.ts';
import { decryptSparse } from './ram-file.ts';
import { decryptFile } from './whole-file.ts';

/** A launch soon after need not decrypt again; memory is not held for long either. */
const FORGET_AFTER_MS = 10 * 60_000;
const DRAFT_SUFFIX = '.draft';

export interface OpenSnapshot extends Disposable {
  readonly ram: string;
  readonly state: string;
  /** Of its layer of changes, when that is encrypted. */
  readonly passphrase: string | undefined;
}

export interface VaultOptions {
  /** In memory; needed only for encrypted snapshots. */
  readonly memoryDir: string | undefined;
  readonly clock: Clock;
  readonly log: Logger;
}

export class Vault implements AsyncDisposable {
  readonly #o: VaultOptions;
  readonly #users = new Map<string, number>();
  readonly #timers = new Map<string, Disposable>();
  readonly #work = new KeyedLock();
  #isOver = false;

  constructor(options: VaultOptions) {
    this.#o = options;
  }

  /** What an earlier server left is forgotten too, unless its machines are taken over meanwhile. */
  async start(): Promise<void> {
    if (this.#o.memoryDir === undefined) return;
    await remove(this.#drafts());
    const names = await readdir(this.#root()).catch(() => []);
    for (const name of names) if (!this.#users.has(name)) this.#forgetLater(name);
  }

  /** A folder in memory for a snapshot that is being made; undefined when it may be on the disk. */
  async draftDir(name: string): Promise<string | undefined> {
    if (this.#o.memoryDir === undefined) return undefined;
    const dir = path.join(this.#drafts(), name);
    await mkdir(dir, { recursive: true, mode: 0o700 });
    return dir;
  }

  /** To be disposed when the machine that loads it has ended. @throws MachineError `corrupt` */
  async open(snapshotDir: string, manifest: Manifest): Promise<OpenSnapshot> {
    const { encryption, key } = manifest;
    if (encryption === undefined || key === undefined) {
      const [ram, state] = [path.join(snapshotDir, 'ram'), path.join(snapshotDir, 'state')];
      return { ram, state, passphrase: undefined, [Symbol.dispose]: () => {} };
    }
    const name = createHash('sha256').update(manifest.parts.ram.sha256).digest('hex').slice(0, 32);
    const dir = path.join(this.#root(), name);
    this.#users.set(name, (this.#users.get(name) ?? 0) + 1);
    let isDone = false;
    const close = () => {
      if (isDone) return;
      isDone = true;
      const left = (this.#users.get(name) ?? 1) - 1;
      this.#users.set(name, left);
      if (left === 0) this.#forgetLater(name);
    };
    try {
      await this.#work.run(name, async () => {
        if (!existsSync(dir)) await this.#decrypt(snapshotDir, manifest, encryption, key, dir);
      });
    } catch (error) {
      close();
      throw error;
    }
    const [ram, state] = [path.join(dir, 'ram'), path.join(dir, 'state')];
    return { ram, state, passphrase: changesPassphrase(key), [Symbol.dispose]: close };
  }

  /** Once the machines have ended; what those map that live on stays where it is. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    for (const timer of this.#timers.values()) timer[Symbol.dispose]();
    this.#timers.clear();
    await Promise.all([...this.#users.keys()].map((name) => this.#forget(name)));
  }

  #drafts(): string {
    return path.join(this.#o.memoryDir ?? '', 'drafts');
  }

  #root(): string {
    return path.join(this.#o.memoryDir ?? '', 'snapshots');
  }

  async #decrypt(
    snapshotDir: string,
    manifest: Manifest,
    { ramId, stateId }: NonNullable<Manifest['encryption']>,
    key: NonNullable<Manifest['key']>,
    dir: string,
  ): Promise<void> {
    const startedMs = this.#o.clock.monotonicMs();
    const draft = `${dir}${DRAFT_SUFFIX}`;
    await remove(draft);
    await mkdir(draft, { recursive: true, mode: 0o700 });
    try {
      const ramKey = key.forFile('ram', Buffer.from(ramId, 'hex'));
      const stateKey = key.forFile('state', Buffer.from(stateId, 'hex'));
      const bytes = manifest.memoryMiB * 1024 * 1024;
      await Promise.all([
        decryptSparse(path.join(snapshotDir, 'ram'), path.join(draft, 'ram'), ramKey, {
          bytes,
          what: 'the sealed memory',
        }),
        decryptFile(path.join(snapshotDir, 'state'), path.join(draft, 'state'), stateKey, 'the sealed device state'),
      ]);
      await rename(draft, dir);
    } catch (error) {
      await remove(draft);
      throw error;
    }
    this.#o.log.debug({ snapshotDir, tookMs: this.#o.clock.monotonicMs() - startedMs }, 'sealed snapshot decrypted');
  }

  #forgetLater(name: string): void {
    this.#timers.get(name)?.[Symbol.dispose]();
    this.#timers.delete(name);
    if (this.#isOver) return;
    const timer = this.#o.clock.after(FORGET_AFTER_MS, () => {
      this.#timers.delete(name);
      void this.#forget(name);
    });
    this.#timers.set(name, timer);
  }

  async #forget(name: string): Promise<void> {
    await this.#work.run(name, async () => {
      if ((this.#users.get(name) ?? 0) > 0) return;
      this.#users.delete(name);
      await remove(path.join(this.#root(), name)).catch((error: unknown) => {
        this.#o.log.warn({ error: messageOf(error) }, 'a decrypted snapshot could not be removed from memory');
      });
    });
  }
}
