/**
 * The builder machine's root disk: a small Debian with BuildKit (built from its published Go module at the version pinned
 * in scripts/buildkit), crun, the program that runs a build, and the managed base for builds without a network.
 */
import { readFileSync } from 'node:fs';
import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BASE_NAME, type ManagedBase } from './base.ts';
import { type BaseKind, baseNames } from './base-names.ts';
import { run } from './command.ts';
import { type Debian, GUEST_RELEASE } from './debian.ts';
import { makeDebianTar, makeDisk, packTar } from './disk.ts';
import type { GoProgram, GoPrograms } from './go-programs.ts';
import type { NodeLayer } from './node-layer.ts';
import { type OciImage, type OciLayer, writeOciLayout } from './oci-layout.ts';
import { type SetupContext, SOURCE_DATE_EPOCH } from './setup-context.ts';
import { type Product, stampOf } from './steps.ts';

const PACKAGES = ['ca-certificates', 'crun', 'e2fsprogs', 'iproute2', 'mount', 'tar', 'xz-utils', 'git'];
const DPKG_OPTIONS = [
  'path-exclude=/usr/share/doc/*',
  'path-exclude=/usr/share/man/*',
  'path-exclude=/usr/share/info/*',
  'path-exclude=/usr/share/locale/*',
  'path-exclude=/usr/share/lintian/*',
];
const UUID = '7e4b1d0a-0000-4000-8000-000000000002';

/** The tree without our own programs; it changes seldom, so a change of those takes seconds. */
async function setUpTree(context: SetupContext, debian: Debian): Promise<Product> {
  const inputs = { recipe: 1, release: GUEST_RELEASE, packages: PACKAGES, dpkg: DPKG_OPTIONS };
  return context.steps.product('builder-tree', inputs, async (dir) => {
    await makeDebianTar(context, debian, {
      variant: 'essential',
      include: PACKAGES,
      dpkgOptions: DPKG_OPTIONS,
      customize: join(context.repoDir, 'scripts/setup/builder-customize.sh'),
      tar: join(dir, 'tree.tar'),
    });
  });
}

/**
 * BuildKit's daemon and client. What Go needs to build them (2 GB) stays until they are there, so that an interrupted
 * build goes on, and not longer.
 */
export async function setUpBuildkit(context: SetupContext, go: GoPrograms): Promise<Product> {
  const moduleDir = join(context.repoDir, 'scripts/buildkit');
  const cachesDir = join(context.cacheDir, 'go-buildkit');
  // Read at once, so that this step, the slowest, is the first to get a slot.
  const module = readFileSync(join(moduleDir, 'go.sum'), 'utf8');
  const inputs = { recipe: 2, module: stampOf({ recipe: 1, module }) };
  const product = await context.steps.product('buildkit', inputs, async (dir) => {
    const { build } = await go.toolchain();
    const root = 'github.com/moby/buildkit/cmd';
    await build({
      moduleDir,
      packages: [`${root}/buildkitd`, `${root}/buildctl`],
      into: dir,
      cachesDir,
      change: { module: 'github.com/moby/buildkit', dir: join(cachesDir, 'changed'), edit: leaveProxyOut },
    });
  });
  await rm(cachesDir, { recursive: true, force: true });
  return product;
}

/**
 * The daemon can put a proxy of its own before steps. No build of ours asks for it, but each daemon that starts makes it an RSA key,
 * which takes an emulated processor seconds (decision 0016): it gets what is there for systems without the proxy.
 */
async function leaveProxyOut(source: string): Promise<void> {
  const dir = join(source, 'util/network/proxyprovider');
  const without = join(dir, 'provider_unsupported.go');
  const text = await readFile(without, 'utf8');
  const constraint = '//go:build !linux\n';
  if (!text.startsWith(constraint)) throw new Error(`${without} does not begin as expected: look at leaveProxyOut`);
  await writeFile(without, text.slice(constraint.length));
  await rm(join(dir, 'provider_linux.go'));
}

export async function setUpBuilder(
  context: SetupContext,
  debian: Debian,
  parts: {
    base: Promise<ManagedBase>;
    nodeLayer: Promise<NodeLayer>;
    buildkit: Promise<Product>;
    program: Promise<GoProgram>;
  },
): Promise<{ disk: string; products: readonly Product[] }> {
  const [tree, base, nodeLayer, buildkit, program] = await Promise.all([
    setUpTree(context, debian),
    parts.base,
    parts.nodeLayer,
    parts.buildkit,
    parts.program,
  ]);
  const names = baseNames(nodeLayer.version);
  const inputs = {
    recipe: 4,
    names: names.map(({ name, base, isNear }) => `${name} ${base} ${isNear}`),
    parts: [tree.stamp, base.layer.digest, nodeLayer.layer.digest, buildkit.stamp, program.digest],
  };
  const disk = await context.steps.product('builder', inputs, async (dir) => {
    const extra = join(dir, 'extra');
    await mkdir(join(extra, 'usr/bin'), { recursive: true });
    await mkdir(join(extra, 'usr/lib/rekindle'), { recursive: true });
    for (const name of ['buildkitd', 'buildctl'])
      await copyFile(join(buildkit.dir, name), join(extra, 'usr/bin', name));
    await copyFile(program.path, join(extra, 'usr/lib/rekindle/build'));
    const layout = join(extra, 'var/lib/rekindle/bases');
    const digests = await writeBases(layout, base, nodeLayer);
    await listLayers(context, program, [base.layer, nodeLayer.layer], join(extra, 'usr/lib/rekindle/layers'));
    // What a FROM may call them by; the build program reads it.
    const lines = names.map(({ name, base, isNear }) => `${name} ${digests[base]}${isNear ? ' near' : ''}\n`);
    await writeFile(join(extra, 'usr/lib/rekindle/bases'), lines.join(''));
    const extraTar = join(dir, 'extra.tar');
    await packTar(context, extra, extraTar);
    await makeDisk(context, {
      tars: [join(tree.dir, 'tree.tar'), extraTar],
      disk: join(dir, 'disk.raw'),
      sizeGiB: 8,
      uuid: UUID,
    });
    for (const work of [extra, extraTar]) await rm(work, { recursive: true });
  });
  return { disk: join(disk.dir, 'disk.raw'), products: [tree, buildkit, program, disk] };
}

/** What the files of the bases hold, so that no build has to read them for its digest. */
async function listLayers(
  context: SetupContext,
  program: GoProgram,
  layers: readonly OciLayer[],
  dir: string,
): Promise<void> {
  await mkdir(dir);
  for (const { tar, digest } of layers) {
    const outputFile = join(dir, digest.slice('sha256:'.length));
    await run([program.path, '--list-layer', tar], { env: context.env, signal: context.signal, outputFile });
  }
}

/** The three bases in one layout; returns the digests of their manifests. */
async function writeBases(
  dir: string,
  base: ManagedBase,
  { layer, version }: NodeLayer,
): Promise<Record<BaseKind, string>> {
  const path = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
  const images = {
    debian: { name: BASE_NAME, layers: [base.layer], config: { Env: [path], Cmd: ['bash'] } },
    python: { name: 'python', layers: [base.layer], config: { Env: [path, 'LANG=C.UTF-8'], Cmd: ['python3'] } },
    node: {
      name: 'node',
      layers: [base.layer, layer],
      config: { Env: [path, `NODE_VERSION=${version}`], Cmd: ['node'] },
    },
  } as const satisfies Record<BaseKind, OciImage>;
  const createdAt = new Date(Number(SOURCE_DATE_EPOCH) * 1_000).toISOString();
  const [debian = '', python = '', node = ''] = await writeOciLayout(dir, [images.debian, images.python, images.node], {
    createdAt,
  });
  return { debian, python, node };
}
