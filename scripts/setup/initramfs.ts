/**
 * The first root of every guest, kept in memory: the agent as /init, the programs it uses before a disk is there, and the
 * kernel's modules with their load order in /lib/modules.order.rekindle, one path a line.
 */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type CpioEntry, writeCpio } from './cpio.ts';
import type { GoProgram } from './go-programs.ts';
import type { GuestKernel } from './kernel.ts';
import type { SetupContext } from './setup-context.ts';
import type { Product } from './steps.ts';

const EMPTY_FOLDERS = ['dev', 'proc', 'sys', 'run', 'tmp', 'mnt', 'etc', 'var'];

export async function setUpInitramfs(
  context: SetupContext,
  parts: { agent: GoProgram; kernel: GuestKernel; tools: Product },
): Promise<{ path: string; product: Product }> {
  const inputs = { recipe: 1, agent: parts.agent.digest, kernel: parts.kernel.stamp, tools: parts.tools.stamp };
  const product = await context.steps.product('initramfs', inputs, async (dir) => {
    const entries: CpioEntry[] = EMPTY_FOLDERS.map((path) => ({ kind: 'directory', path }));
    // The kernel opens its console before /init runs.
    entries.push({ kind: 'device', path: 'dev/console', mode: 0o600, major: 5, minor: 1 });
    entries.push({ kind: 'device', path: 'dev/null', mode: 0o666, major: 1, minor: 3 });
    entries.push(await program('init', parts.agent.path));
    for (const path of await filesBelow(parts.tools.dir))
      entries.push(await program(path, join(parts.tools.dir, path)));
    entries.push(...(await moduleEntries(parts.kernel)));
    await writeFile(join(dir, 'initramfs.cpio'), writeCpio(entries));
  });
  return { path: join(product.dir, 'initramfs.cpio'), product };
}

async function moduleEntries(kernel: GuestKernel): Promise<CpioEntry[]> {
  const folder = `lib/modules/${kernel.release}`;
  const entries: CpioEntry[] = [];
  for (const name of kernel.order) {
    const data = await readFile(join(kernel.dir, 'modules', name));
    entries.push({ kind: 'file', path: `${folder}/${name}`, mode: 0o644, data });
  }
  const order = kernel.order.map((name) => `/${folder}/${name}\n`).join('');
  entries.push({ kind: 'file', path: 'lib/modules.order.rekindle', mode: 0o644, data: Buffer.from(order) });
  return entries;
}

async function program(path: string, from: string): Promise<CpioEntry> {
  return { kind: 'file', path, mode: 0o755, data: await readFile(from) };
}

async function filesBelow(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(dir.length + 1))
    .sort();
}
