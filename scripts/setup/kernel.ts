/**
 * The guests' kernel: Debian's cloud kernel, unpacked. QEMU starts an uncompressed kernel by its PVH entry, which saves
 * the guest from unpacking itself under emulation.
 */
import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { zstdDecompressSync } from 'node:zlib';
import { unpackDebs } from './apt-root.ts';
import { run } from './command.ts';
import { type Debian, GUEST_RELEASE } from './debian.ts';
import { findPayload, hasPvhEntry } from './kernel-image.ts';
import { dependenciesOf, loadOrder, moduleName } from './modules.ts';
import type { SetupContext } from './setup-context.ts';

/** What guests need beyond the built-in: disks, link, RNG, balloon, network card, container layers, ending of connections. */
const MODULES = [
  'virtio_mmio',
  'virtio_blk',
  'virtio_console',
  'virtio_rng',
  'virtio_balloon',
  'virtio_net',
  'overlay',
  'ext4',
  'af_packet',
  'inet_diag',
  'tcp_diag',
  'crc32c_intel',
];

export interface GuestKernel {
  readonly dir: string;
  readonly stamp: string;
  readonly kernel: string;
  readonly release: string;
  /** Decompressed modules, `modules/<name>.ko`, in the order of `order`. */
  readonly order: readonly string[];
}

export async function setUpKernel(context: SetupContext, debian: Debian): Promise<GuestKernel> {
  const inputs = { recipe: 1, release: GUEST_RELEASE, modules: MODULES };
  const product = await context.steps.product('kernel', inputs, async (dir) => {
    const apt = await debian.guestRoot();
    const image = (await apt.dependencies('linux-image-cloud-amd64')).find((name) => /^linux-image-\d/.test(name));
    if (image === undefined) throw new Error(`no cloud kernel in ${GUEST_RELEASE}`);
    const work = join(context.workDir, 'kernel-deb');
    await unpackDebs(await apt.download([image], { into: work }), join(work, 'root'), context);
    const release = image.replace(/^linux-image-/, '');
    await uncompress(context, join(work, 'root/boot', `vmlinuz-${release}`), join(dir, 'kernel'));
    const order = await takeModules(context, join(work, 'root/usr/lib/modules', release), join(dir, 'modules'));
    await writeFile(join(dir, 'kernel.json'), JSON.stringify({ release, order }));
  });
  const text = await readFile(join(product.dir, 'kernel.json'), 'utf8');
  const { release, order } = JSON.parse(text) as { release: string; order: string[] };
  return { ...product, kernel: join(product.dir, 'kernel'), release, order };
}

/** Writes the uncompressed kernel when QEMU can start it, else the file as it is. */
async function uncompress(context: SetupContext, from: string, to: string): Promise<void> {
  const image = await readFile(from);
  const payload = findPayload(image);
  let kernel: Buffer | undefined;
  if (payload?.compression === 'zstd') kernel = zstdDecompressSync(payload.bytes);
  if (payload?.compression === 'xz') {
    const packed = `${to}.xz`;
    await writeFile(packed, payload.bytes);
    await run(['xz', '-dc', '--single-stream', packed], { env: context.env, signal: context.signal, outputFile: to });
    kernel = await readFile(to);
  }
  if (kernel !== undefined && hasPvhEntry(kernel)) await writeFile(to, kernel);
  else await copyFile(from, to);
}

async function takeModules(context: SetupContext, from: string, into: string): Promise<string[]> {
  await mkdir(into, { recursive: true });
  const files = new Map<string, string>();
  for (const path of await readdir(from, { recursive: true })) {
    if (/\.ko(\.xz)?$/.test(path)) files.set(moduleName(path), join(from, path));
  }
  const builtin = new Set((await readFile(join(from, 'modules.builtin'), 'utf8')).split('\n').map(moduleName));
  const wanted = MODULES.filter((name) => !builtin.has(name) && files.has(name));
  const order = await loadOrder(wanted, async (name) => {
    const path = files.get(name);
    if (path === undefined) {
      if (builtin.has(name)) return [];
      throw new Error(`kernel module ${name} is not there`);
    }
    const target = join(into, `${name}.ko`);
    const options = { env: context.env, signal: context.signal };
    if (path.endsWith('.xz')) await run(['xz', '-dc', path], { ...options, outputFile: target });
    else await copyFile(path, target);
    return dependenciesOf(await readFile(target));
  });
  return order.filter((name) => files.has(name)).map((name) => `${basename(name)}.ko`);
}
