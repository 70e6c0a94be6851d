/**
 * Writes the cpio format the kernel unpacks as its first root (`newc`). Entries come out in the order given, with fixed
 * times and root as owner, so equal contents give equal bytes.
 */

export type CpioEntry =
  | { readonly kind: 'directory'; readonly path: string; readonly mode?: number }
  | { readonly kind: 'file'; readonly path: string; readonly mode: number; readonly data: Buffer }
  | { readonly kind: 'link'; readonly path: string; readonly target: string }
  | {
      readonly kind: 'device';
      readonly path: string;
      readonly mode: number;
      readonly major: number;
      readonly minor: number;
    };

const TYPE = { directory: 0o040000, file: 0o100000, link: 0o120000, device: 0o020000 } as const;
const TRAILER = 'TRAILER!!!';

/** Paths are relative, without a leading slash. Missing parent folders are added. */
export function writeCpio(entries: readonly CpioEntry[]): Buffer {
  const parts: Buffer[] = [];
  let inode = 1;
  const add = (entry: CpioEntry) => parts.push(record(entry, inode++));
  const known = new Set<string>();
  for (const entry of entries) {
    for (const parent of parents(entry.path)) {
      if (known.has(parent)) continue;
      known.add(parent);
      add({ kind: 'directory', path: parent });
    }
    if (known.has(entry.path)) {
      if (entry.kind === 'directory') continue;
      throw new Error(`cpio: ${entry.path} is there twice`);
    }
    known.add(entry.path);
    add(entry);
  }
  parts.push(record({ kind: 'file', path: TRAILER, mode: 0, data: Buffer.alloc(0) }, 0));
  const archive = Buffer.concat(parts);
  return Buffer.concat([archive, padding(archive.length, 512)]);
}

function record(entry: CpioEntry, inode: number): Buffer {
  const data = entry.kind === 'file' ? entry.data : entry.kind === 'link' ? Buffer.from(entry.target) : Buffer.alloc(0);
  const permissions = entry.kind === 'link' ? 0o777 : (entry.mode ?? 0o755);
  const mode = entry.path === TRAILER ? 0 : TYPE[entry.kind] | permissions;
  const name = Buffer.from(`${entry.path}\0`);
  const device = entry.kind === 'device' ? entry : { major: 0, minor: 0 };
  const fields = [
    inode,
    mode,
    0, // uid
    0, // gid
    entry.kind === 'directory' ? 2 : 1,
    0, // time
    data.length,
    0, // device the file is on
    0,
    device.major,
    device.minor,
    name.length,
    0, // checksum, unused in this variant
  ];
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`);
  const headed = Buffer.concat([header, name]);
  return Buffer.concat([headed, padding(headed.length, 4), data, padding(data.length, 4)]);
}

function padding(length: number, to: number): Buffer {
  return Buffer.alloc((to - (length % to)) % to);
}

function parents(path: string): string[] {
  const names = path.split('/').slice(0, -1);
  return names.map((_, index) => names.slice(0, index + 1).join('/'));
}
