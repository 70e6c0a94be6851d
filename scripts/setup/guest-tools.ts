/**
 * The programs the agent uses before any root disk is mounted, from the guests' Debian release: a static e2fsck, and crun
 * with exactly the libraries it needs.
 */
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readFile, realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { unpackDebs } from './apt-root.ts';
import { type Debian, GUEST_RELEASE } from './debian.ts';
import { elfNeeds } from './elf.ts';
import type { SetupContext } from './setup-context.ts';
import type { Product } from './steps.ts';

const LIBRARY_FOLDERS = ['usr/lib/x86_64-linux-gnu', 'lib/x86_64-linux-gnu', 'usr/lib64', 'lib64', 'usr/lib'];
/** Where they lie in the guest; the first is the path the programs name as their loader's. */
const GUEST_LIBRARIES = 'usr/lib/x86_64-linux-gnu';

/** Makes a folder with the layout of the guest's root. */
export async function setUpGuestTools(context: SetupContext, debian: Debian): Promise<Product> {
  return context.steps.product('guest-tools', { recipe: 1, release: GUEST_RELEASE }, async (dir) => {
    const apt = await debian.guestRoot();
    const work = join(context.workDir, 'tools-debs');
    const debs = await apt.downloadClosure(['crun', 'e2fsck-static'], { into: work });
    const root = join(work, 'root');
    await unpackDebs(debs, root, context);
    await copyInto(join(root, 'sbin/e2fsck.static'), join(root, 'usr/sbin/e2fsck.static'), join(dir, 'sbin/e2fsck'));
    await copyInto(join(root, 'usr/bin/crun'), undefined, join(dir, 'usr/bin/crun'));
    await copyLibraries(root, join(root, 'usr/bin/crun'), dir);
  });
}

async function copyLibraries(root: string, program: string, dir: string): Promise<void> {
  const { interpreter } = elfNeeds(await readFile(program));
  if (interpreter !== undefined) {
    await copyInto(findLibrary(root, basename(interpreter)), undefined, join(dir, interpreter));
  }
  const seen = new Set<string>();
  const queue = [program];
  for (let path = queue.shift(); path !== undefined; path = queue.shift()) {
    for (const name of elfNeeds(await readFile(path)).libraries) {
      if (seen.has(name)) continue;
      seen.add(name);
      const library = findLibrary(root, name);
      await copyInto(library, undefined, join(dir, GUEST_LIBRARIES, name));
      queue.push(library);
    }
  }
}

function findLibrary(root: string, name: string): string {
  const found = LIBRARY_FOLDERS.map((folder) => join(root, folder, name)).find((path) => existsSync(path));
  if (found === undefined) throw new Error(`library ${name} is in none of the downloaded packages`);
  return found;
}

async function copyInto(from: string, orFrom: string | undefined, to: string): Promise<void> {
  const source = existsSync(from) || orFrom === undefined ? from : orFrom;
  await mkdir(dirname(to), { recursive: true });
  await copyFile(await realpath(source), to);
}
