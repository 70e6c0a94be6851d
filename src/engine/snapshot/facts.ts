/** What a sealed snapshot says of itself, without what is nobody's business. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import type { SnapshotFacts } from '../engine.ts';
import type { Keyring } from './encryption.ts';
import { type Manifest, type Part, readForeignManifest } from './manifest.ts';

/** Undefined when it has no manifest that is whole and of this format. */
export async function snapshotFacts(snapshotDir: string, keyring?: Keyring): Promise<SnapshotFacts | undefined> {
  let manifest: Manifest;
  let text: Buffer;
  try {
    manifest = await readForeignManifest(snapshotDir, keyring);
    text = await readFile(path.join(snapshotDir, 'manifest.json'));
  } catch {
    return undefined;
  }
  const { parts, vmm, kernelRelease, runtimeStamp, link, guest } = manifest;
  const part = ({ bytes, sha256 }: Part) => ({ bytes, sha256 });
  return {
    manifest: createHash('sha256').update(text).digest('hex'),
    parts: {
      ram: part(parts.ram),
      state: part(parts.state),
      disk: part(parts.disk),
      changes: part(parts.changes),
    },
    vmm,
    kernel: kernelRelease,
    runtime: runtimeStamp,
    link: link.generation,
    ...(guest !== undefined && { guest }),
  };
}
