/**
 * Build caches. For each owner the results of earlier builds: root disks by what they follow from. And one disk with BuildKit's
 * state, what its builds changed over the template of the builder.
 *
 * Invariant: a kept cache (`<owner>/<template>.qcow2`) is never open in a machine, and is only ever put over the template it was
 * begun on. Each build works on a draft of its own; only that of a build that ended in order, or a copy of it made while its machine
 * stands still, takes the cache's place, at once and whole. So builds of one owner beside each other are safe (the cache of the last
 * to end is kept), and one that is killed costs nothing but its draft.
 */
import { createHash, randomBytes } from 'node:crypto';
import { link, mkdir, readdir, readFile, rename, rm, rmdir, stat, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { type Clock, KeyedLock, type Logger, messageOf } from '../../lib/index.ts';
import { copySparse } from '../disk/copy.ts';
import { createOverlay } from '../disk/overlay.ts';
import type { BuildCache } from '../engine.ts';
import { remove, syncPath } from '../folders.ts';
import { SPARE_DISK_BYTES } from '../machine/context.ts';
import type { Disk } from '../vmm/vmm.ts';
import type { Builder } from './builder.ts';

const DRAFT = '.draft';
const WORK = '.work';
const CACHE = '.qcow2';
const RESULT = '.disk';
const RECORD = '.record';
/** Tells whose cache a folder is; its name is only a digest. */
const OWNER = 'owner';
const MIB = 1024 * 1024;
/** Copying more than that would take longer than most builds: such a cache is lent itself, and lost when its build is killed. */
const MAX_COPIED_BYTES = 1024 * MIB;

export interface CachesOptions {
  readonly dir: string;
  /** Of all owners together; those used least recently go first. 0: nothing is kept between builds. */
  readonly limitBytes: number;
  readonly clock: Clock;
  readonly log: Logger;
  /** Larger ones are not copied; default 1 GiB. */
  readonly maxCopiedBytes?: number;
}

/** A build's cache disk, for it alone. Disposing it without `keep` throws it away. */
export interface CacheLease extends AsyncDisposable {
  readonly disk: Extract<Disk['source'], { kind: 'overlay' }>;
  /** A private folder for what the machine has besides; gone with the lease. */
  readonly workDir: string;
  /**
   * The machine that had it open has ended, and the build in it in order: the disk becomes the owner's cache. That goes on
   * beside whatever follows; the owner's next lease waits for it.
   */
  keep(): void;
  /**
   * The machine that has it open stands still and has written all: a copy becomes the owner's cache, and the lease goes on. The machine
   * must not run before `copied` resolves, which never rejects. Undefined: nothing is kept, or it is too large to be copied.
   */
  keepCopy(): Promise<{ readonly copied: Promise<void> } | undefined>;
  /** Nothing came of it, and that may be the cache's fault: the owner's next build begins anew. */
  forget(): Promise<void>;
}

/** What a build came to. */
export interface BuildResult {
  /** Its root disk, another name of a file that nobody writes to. */
  readonly disk: string;
  /** What the build said of it. */
  readonly record: Buffer;
}

export class BuildCaches implements AsyncDisposable {
  readonly #o: CachesOptions;
  readonly #owners = new KeyedLock();
  readonly #drafts = new Set<string>();
  readonly #keeping = new Set<Promise<void>>();

  constructor(options: CachesOptions) {
    this.#o = options;
  }

  /** Removes what builds of an earlier server had open: what they left was never put in order. */
  async sweep(): Promise<void> {
    for (const owner of await namesIn(this.#o.dir)) {
      for (const name of await namesIn(path.join(this.#o.dir, owner))) {
        const file = path.join(this.#o.dir, owner, name);
        const isOpen = this.#drafts.has(file.replace(WORK, DRAFT));
        if ((name.endsWith(DRAFT) || name.endsWith(WORK)) && !isOpen) await remove(file);
      }
    }
    await this.#trim(this.#o.limitBytes);
  }

  /** @throws MachineError, with code `ENOSPC` in `cause` when the host's disk is full; the signal's reason */
  async lease(
    owner: string,
    builder: Pick<Builder, 'key' | 'cacheTemplate'>,
    { signal }: { signal?: AbortSignal | undefined },
  ): Promise<CacheLease> {
    const dir = this.#folderOf(owner);
    const cache = path.join(dir, `${await identityOf(builder)}${CACHE}`);
    const name = path.join(dir, randomBytes(8).toString('hex'));
    const [draft, workDir] = [`${name}${DRAFT}`, `${name}${WORK}`];
    this.#drafts.add(draft);
    const discard = async () => {
      await remove(draft);
      this.#drafts.delete(draft);
    };
    try {
      await this.#owners.run(dir, async () => {
        await this.#make(dir, owner);
        for (const name of await namesIn(dir)) {
          // Of another template, and of no use over this one.
          const other = path.join(dir, name);
          if (name.endsWith(CACHE) && other !== cache) await rm(other, { force: true });
        }
        await mkdir(workDir, { mode: 0o700 });
        const maxBytes = this.#maxCopiedBytes;
        if (!(await take(cache, draft, { maxBytes, signal }))) await createOverlay(draft, SPARE_DISK_BYTES);
      });
    } catch (error) {
      await Promise.all([remove(workDir), discard()]);
      throw error;
    }
    let isKept = false;
    return {
      disk: { kind: 'overlay', path: draft, basePath: builder.cacheTemplate },
      workDir,
      keep: () => {
        isKept = true;
        void this.#goOn(this.#keep(dir, () => this.#replace(cache, draft)).finally(discard));
      },
      keepCopy: async () => {
        const { blocks } = await stat(draft);
        if (this.#o.limitBytes <= 0 || blocks * 512 > this.#maxCopiedBytes) return undefined;
        return { copied: this.#goOn(this.#keep(dir, () => this.#replaceByCopy(cache, draft))) };
      },
      forget: () => this.#owners.run(dir, () => rm(cache, { force: true })),
      [Symbol.asyncDispose]: async () => {
        await remove(workDir);
        if (!isKept) await discard();
      },
    };
  }

  /** What the owner's build of this key came to; its disk is linked to `disk`. */
  async result(owner: string, key: string, disk: string): Promise<BuildResult | undefined> {
    const dir = this.#folderOf(owner);
    return this.#owners.run(dir, async () => {
      try {
        const record = await readFile(path.join(dir, `${key}${RECORD}`));
        await link(path.join(dir, `${key}${RESULT}`), disk);
        await this.#touch(disk);
        return { disk, record };
      } catch {
        return undefined;
      }
    });
  }

  /** Keeps it for `result`. Never rejects: it can be done without. */
  async keepResult(owner: string, key: string, { disk, record }: BuildResult): Promise<void> {
    if (this.#o.limitBytes <= 0) return;
    const dir = this.#folderOf(owner);
    try {
      await this.#owners.run(dir, async () => {
        await this.#make(dir, owner);
        const [keptDisk, keptRecord] = [path.join(dir, `${key}${RESULT}`), path.join(dir, `${key}${RECORD}`)];
        await rm(keptDisk, { force: true });
        await writeFile(keptRecord, record, { mode: 0o600, flush: true });
        await this.#touch(disk);
        await syncPath(disk);
        // Last: without its disk a record is nothing.
        await link(disk, keptDisk);
        await syncPath(dir);
      });
      await this.#trim(this.#o.limitBytes);
    } catch (error) {
      this.#o.log.warn({ error: messageOf(error) }, 'a build result could not be kept');
    }
  }

  /** What is kept, the one used last first. */
  async list(): Promise<readonly (BuildCache & { readonly file: string })[]> {
    const found: (BuildCache & { readonly file: string })[] = [];
    for (const folder of await namesIn(this.#o.dir)) {
      const dir = path.join(this.#o.dir, folder);
      for (const name of await namesIn(dir)) {
        if (!name.endsWith(CACHE) && !name.endsWith(RESULT)) continue;
        const file = path.join(dir, name);
        const facts = await stat(file).catch(() => undefined);
        if (facts !== undefined) found.push({ file, folder, bytes: facts.blocks * 512, usedAt: facts.mtimeMs });
      }
    }
    return found.sort((a, b) => b.usedAt - a.usedAt);
  }

  /** Removes all that is kept; builds under way go on. Returns how many bytes that gave back. */
  async drop(): Promise<number> {
    return this.#trim(-1);
  }

  /** What was to be kept is. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#keeping]);
  }

  get #maxCopiedBytes(): number {
    return this.#o.maxCopiedBytes ?? MAX_COPIED_BYTES;
  }

  /** Never rejects: a cache can be done without. */
  async #keep(dir: string, replace: () => Promise<void>): Promise<void> {
    try {
      if (this.#o.limitBytes > 0) await this.#owners.run(dir, replace);
      await this.#trim(this.#o.limitBytes);
    } catch (error) {
      this.#o.log.warn({ error: messageOf(error) }, 'a build cache could not be kept');
    }
  }

  /** Beside whatever follows, but not beyond the end of the caches. */
  async #goOn(keeping: Promise<void>): Promise<void> {
    this.#keeping.add(keeping);
    await keeping.finally(() => this.#keeping.delete(keeping));
  }

  async #replaceByCopy(cache: string, draft: string): Promise<void> {
    const copy = `${draft}${DRAFT}`;
    try {
      await copySparse(draft, copy, undefined);
      await this.#replace(cache, copy);
    } finally {
      await remove(copy);
    }
  }

  async #replace(cache: string, draft: string): Promise<void> {
    await this.#touch(draft);
    // A cache that a loss of power left half written would give wrong layers.
    await syncPath(draft);
    await rename(draft, cache);
    await syncPath(path.dirname(cache));
  }

  #folderOf(owner: string): string {
    return path.join(this.#o.dir, createHash('sha256').update(owner).digest('hex').slice(0, 32));
  }

  async #make(dir: string, owner: string): Promise<void> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    await writeFile(path.join(dir, OWNER), owner, { mode: 0o600 });
  }

  async #touch(file: string): Promise<void> {
    const usedAt = this.#o.clock.now() / 1000;
    await utimes(file, usedAt, usedAt);
  }

  async #trim(limitBytes: number): Promise<number> {
    const kept = await this.list();
    let total = kept.reduce((sum, { bytes }) => sum + bytes, 0);
    let freed = 0;
    for (const { file, bytes } of kept.toReversed()) {
      if (total <= limitBytes) break;
      const dir = path.dirname(file);
      await this.#owners.run(dir, async () => {
        await rm(file, { force: true });
        if (file.endsWith(RESULT)) await rm(`${file.slice(0, -RESULT.length)}${RECORD}`, { force: true });
        if ((await namesIn(dir)).some((name) => name !== OWNER)) return;
        await rm(path.join(dir, OWNER), { force: true });
        await rmdir(dir).catch(() => {});
      });
      total -= bytes;
      freed += bytes;
    }
    return freed;
  }
}

/** Makes the draft of what is kept; false when nothing is. */
async function take(
  cache: string,
  draft: string,
  { maxBytes, signal }: { maxBytes: number; signal: AbortSignal | undefined },
): Promise<boolean> {
  const facts = await stat(cache).catch(() => undefined);
  if (facts === undefined) return false;
  if (facts.blocks * 512 <= maxBytes) await copySparse(cache, draft, signal);
  else await rename(cache, draft);
  return true;
}

/** A template that was made again under the same key has its blocks in other places. */
async function identityOf({ key, cacheTemplate }: Pick<Builder, 'key' | 'cacheTemplate'>): Promise<string> {
  const { ino, mtimeNs } = await stat(cacheTemplate, { bigint: true });
  return `${key}-${ino.toString(36)}-${mtimeNs.toString(36)}`;
}

async function namesIn(dir: string): Promise<string[]> {
  return await readdir(dir).catch(() => []);
}
