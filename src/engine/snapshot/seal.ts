/**
 * Turns a booted machine into a sealed snapshot folder: `ram`, `state`, `disk` as it was built, `changes` (what the machine
 * wrote to it since), `manifest.json`. The disk as it was built is kept for free that way, to seal it again one day.
 *
 * Invariant: a folder under its final name is complete and on disk. It is written under a temporary name beside it, synced,
 * made read-only and then renamed.
 */
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, rename, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { remove, syncPath } from '../folders.ts';
import type { VmmDriver } from '../vmm/vmm.ts';
import { type DigestOptions, digestFile } from './digest.ts';
import type { Keyring } from './encryption.ts';
import { describeMachine, encodeManifest, KEY_OWNER, type Manifest } from './manifest.ts';
import { encryptSparse } from './ram-file.ts';
import type { Vault } from './vault.ts';
import { encryptFile } from './whole-file.ts';

export interface Draft extends AsyncDisposable {
  /** The temporary folder. */
  readonly dir: string;
  /** Plain, as the machine writes them; in memory when they are to be encrypted. */
  readonly ram: string;
  readonly state: string;
  readonly disk: string;
  /** A qcow2 overlay of `disk`. */
  readonly changes: string;
  /** When the snapshot is to be encrypted. */
  readonly key: NewKey | undefined;
}

type NewKey = ReturnType<Keyring['make']>;

type Facts = Pick<
  Manifest,
  'runtimeStamp' | 'kernelRelease' | 'guest' | 'memoryMiB' | 'cpus' | 'network' | 'link' | 'container' | 'built'
>;

/**
 * A draft beside `finalDir`; disposing it before it was sealed removes it.
 * @param encryption makes it an encrypted one, whose plain parts are in memory while it is made
 */
export async function createDraft(
  finalDir: string,
  encryption?: { readonly keyring: Keyring; readonly vault: Vault },
): Promise<Draft> {
  const name = randomBytes(4).toString('hex');
  const dir = `${finalDir}.draft-${name}`;
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const plainDir = (await encryption?.vault.draftDir(name)) ?? dir;
  return {
    dir,
    ram: path.join(plainDir, 'ram'),
    state: path.join(plainDir, 'state'),
    disk: path.join(dir, 'disk'),
    changes: path.join(dir, 'changes'),
    key: encryption?.keyring.make(KEY_OWNER),
    [Symbol.asyncDispose]: async () => {
      await Promise.all([remove(dir), remove(plainDir)]);
    },
  };
}

/** The machine that wrote the parts has ended. Returns their digests. */
export async function sealDraft(
  draft: Draft,
  finalDir: string,
  facts: Facts,
  options: { driver: VmmDriver; mapper: string; signal: AbortSignal | undefined },
): Promise<Manifest['parts']> {
  const encryption = await encryptDraft(draft, options);
  const [ram, state] = [path.join(draft.dir, 'ram'), path.join(draft.dir, 'state')];
  const files = [ram, state, draft.disk, draft.changes];
  const synced = Promise.all(files.map((file) => syncPath(file)));
  const parts: Manifest['parts'] = {
    ram: await digestFile(ram, options),
    state: await digestFile(state, options),
    disk: await digestFile(draft.disk, options),
    changes: await digestFile(draft.changes, options),
  };
  await synced;
  const manifest: Manifest = { ...describeMachine(options.driver), ...facts, parts, ...encryption };
  const manifestPath = path.join(draft.dir, 'manifest.json');
  // Holds the link's secret.
  await writeFile(manifestPath, encodeManifest(manifest), { mode: 0o600, flag: 'wx', flush: true });
  await chmod(manifestPath, 0o400);
  // Each VMM reads them as a user of its own; to everybody else the state folder is closed.
  await Promise.all(files.map((file) => chmod(file, 0o444)));
  await syncPath(draft.dir);
  await mkdir(path.dirname(finalDir), { recursive: true });
  await rename(draft.dir, finalDir);
  await syncPath(path.dirname(finalDir));
  return parts;
}

/** Writes `ram` and `state` from memory to the draft's folder, when it has a key. */
async function encryptDraft(
  { dir, ram, state, key: made }: Draft,
  options: DigestOptions,
): Promise<Pick<Manifest, 'encryption' | 'key'>> {
  if (made === undefined) return {};
  const { key, wrapped } = made;
  const [ramId, stateId] = [randomBytes(16), randomBytes(16)];
  await encryptSparse(ram, path.join(dir, 'ram'), key.forFile('ram', ramId), options);
  await encryptFile(state, path.join(dir, 'state'), key.forFile('state', stateId));
  const ids = { ramId: ramId.toString('hex'), stateId: stateId.toString('hex') };
  return { key, encryption: { wrapped, ...ids, sealed: '' } };
}

/** Bytes a sparse file takes on disk. */
export async function allocatedBytes(file: string): Promise<number> {
  return (await stat(file)).blocks * 512;
}
