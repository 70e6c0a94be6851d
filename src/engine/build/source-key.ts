/**
 * What the result of a build follows from, when that is nothing but its context and a managed base: a build of the same again
 * would find each of its steps in the cache, and end with the same root disk.
 *
 * As for the cache of layers, times of files do not count. A Dockerfile that asks others anew each time (a base from a registry,
 * an ADD) has no key; in doubt neither: then the build is carried out.
 */
import { createHash, type Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { lstat, open, readdir, readFile, readlink, stat } from 'node:fs/promises';
import path from 'node:path';

const MAX_DOCKERFILE_BYTES = 1024 * 1024;
/** To read more costs more than building it may. */
const MAX_CONTEXT_BYTES = 256 * 1024 * 1024;
const READ_BYTES = 1024 * 1024;

export interface KeyOptions {
  /** Names of managed bases. */
  readonly bases: readonly string[];
  /** Of all that a build depends on besides: the builder, its bases. */
  readonly stamp: string;
  readonly signal?: AbortSignal | undefined;
}

/** Undefined: the result may be another one each time. */
export async function sourceKey(contextDir: string, options: KeyOptions): Promise<string | undefined> {
  const dockerfile = path.join(contextDir, 'Dockerfile');
  const { size } = await stat(dockerfile);
  if (size > MAX_DOCKERFILE_BYTES || !isSelfContained(await readFile(dockerfile, 'utf8'), options.bases))
    return undefined;
  const hash = createHash('sha256').update(JSON.stringify([options.stamp]));
  const isWhole = await addFolder({ hash, left: MAX_CONTEXT_BYTES }, contextDir, '', options.signal);
  return isWhole ? hash.digest('hex') : undefined;
}

/** Whether a Dockerfile reaches for nothing but its context, the managed bases and its own stages. */
export function isSelfContained(dockerfile: string, bases: readonly string[]): boolean {
  // Directives change how the rest is to be read.
  if (/^\s*#\s*(syntax|escape|check)\s*=/im.test(dockerfile)) return false;
  const lines = dockerfile.replace(/\\[ \t]*\r?\n/g, ' ').split(/\r?\n/);
  const stages = new Set<string>();
  const known = (name: string) => stages.has(name.toLowerCase());
  let stage = 0;
  for (const line of lines) {
    if (/^\s*(ADD|ONBUILD)\b/i.test(line)) return false;
    for (const [, from = ''] of line.matchAll(/\bfrom\s*=\s*["']?([^\s,"']*)/gi)) if (!known(from)) return false;
    if (!/^\s*FROM\b/i.test(line)) continue;
    const found = /^\s*FROM\s+([^\s$]+)(?:\s+AS\s+([a-z0-9_.-]+))?\s*$/i.exec(line);
    const [, base = '', name] = found ?? [];
    if (!(bases.includes(base) || base === 'scratch' || known(base))) return false;
    // A stage may be called by its number too.
    stages.add(String(stage++));
    if (name !== undefined) stages.add(name.toLowerCase());
  }
  return true;
}

/** False when there is more than is worth reading. */
async function addFolder(
  to: { readonly hash: Hash; left: number },
  root: string,
  relative: string,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  for (const name of (await readdir(path.join(root, relative))).sort()) {
    signal?.throwIfAborted();
    const inside = relative === '' ? name : `${relative}/${name}`;
    const file = path.join(root, inside);
    const facts = await lstat(file);
    const kind = facts.isDirectory() ? 'folder' : facts.isSymbolicLink() ? 'link' : 'file';
    const target = kind === 'link' ? await readlink(file) : '';
    to.hash.update(JSON.stringify([inside, kind, facts.mode & 0o7777, kind === 'file' ? facts.size : 0, target]));
    if (kind === 'folder' && !(await addFolder(to, root, inside, signal))) return false;
    if (kind !== 'file') continue;
    to.left -= facts.size;
    if (to.left < 0) return false;
    await using source = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW);
    const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, facts.size));
    for (let left = facts.size; left > 0; ) {
      const { bytesRead } = await source.read(buffer, 0, Math.min(buffer.length, left), null);
      if (bytesRead === 0) return false;
      to.hash.update(buffer.subarray(0, bytesRead));
      left -= bytesRead;
    }
  }
  return true;
}
