/** A folder with a Dockerfile as the zip that CreateMicrovmImage wants. */
import { readdir, stat } from 'node:fs/promises';
import { basename, join, relative, resolve, sep } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { CliError, EXIT } from './exit.ts';

/** A fixed time, so that the same files give the same bytes and the server can see that nothing changed. */
const MTIME = new Date('2000-01-01T00:00:00Z');

/** Zips regular files with their executable bits; `.git` stays out. @throws CliError */
export async function zipFolder(folder: string): Promise<{ bytes: Buffer; files: number }> {
  const root = resolve(folder);
  const found = await stat(root).catch(() => undefined);
  if (found?.isDirectory() !== true) throw new CliError(`${folder} is not a folder.`, EXIT.usage);
  if ((await stat(join(root, 'Dockerfile')).catch(() => undefined))?.isFile() !== true) {
    throw new CliError(
      `${folder} has no Dockerfile. An image is built from a folder with a Dockerfile at its root.`,
      EXIT.usage,
    );
  }
  const { ZipFile } = await import('yazl');
  const zip = new ZipFile();
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  const paths = entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .filter((path) => path !== '.git' && !path.startsWith(`.git${sep}`))
    .sort();
  for (const path of paths) {
    const { mode } = await stat(join(root, path));
    zip.addFile(join(root, path), path.split(sep).join('/'), { mtime: MTIME, mode });
  }
  zip.end();
  return { bytes: await buffer(zip.outputStream), files: paths.length };
}

/** The folder's own name as an image name (letters, digits, `-`, `_`; at most 64). */
export function imageNameOf(folder: string): string {
  const name = basename(resolve(folder))
    .replace(/[^a-zA-Z0-9_-]+/g, '-')
    .slice(0, 64);
  if (name === '') throw new CliError('The folder has no usable name; give one with --name.', EXIT.usage);
  return name;
}
