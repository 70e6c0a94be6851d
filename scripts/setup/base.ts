/**
 * The managed base image: a small Debian with curl and Python, as an OCI layout for the builder and as a ready ext4 disk
 * that images built from it start from. Dockerfiles name it by the alias names below.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Debian, GUEST_RELEASE } from './debian.ts';
import { makeDebianTar, makeDisk } from './disk.ts';
import { writeOciLayout } from './oci-layout.ts';
import { type SetupContext, SOURCE_DATE_EPOCH } from './setup-context.ts';
import type { Product } from './steps.ts';

export const BASE_NAME = 'al2023-1';
const PACKAGES = ['ca-certificates', 'curl', 'python3'];
/** As the usual container images leave out, also of what is installed later. */
const DPKG_OPTIONS = [
  'path-exclude=/usr/share/doc/*',
  'path-include=/usr/share/doc/*/copyright',
  'path-exclude=/usr/share/man/*',
  'path-exclude=/usr/share/info/*',
  'path-exclude=/usr/share/locale/*',
  'path-exclude=/usr/share/lintian/*',
];
const UUID = '7e4b1d0a-0000-4000-8000-000000000001';
const DEBIAN_TAGS = ['trixie', 'trixie-slim', '13', '13-slim', 'stable', 'stable-slim', 'latest'];

/** FROM names that resolve to the managed base without a network. */
export const BASE_ALIASES: readonly string[] = [
  'public.ecr.aws/lambda/microvms:al2023-minimal',
  'public.ecr.aws/lambda/microvms:al2023',
  ...['debian', 'docker.io/library/debian', 'public.ecr.aws/docker/library/debian'].flatMap((name) => [
    ...DEBIAN_TAGS.map((tag) => `${name}:${tag}`),
  ]),
];

export interface ManagedBase {
  readonly product: Product;
  readonly disk: string;
  /** OCI image layout. */
  readonly layout: string;
  readonly layerDigest: string;
}

export async function setUpBase(context: SetupContext, debian: Debian): Promise<ManagedBase> {
  const inputs = {
    recipe: 3,
    release: GUEST_RELEASE,
    packages: PACKAGES,
    dpkg: DPKG_OPTIONS,
    mirror: debian.mirror.archive,
    security: debian.mirror.security ?? '',
  };
  const product = await context.steps.product('base', inputs, async (dir) => {
    const layerTar = join(dir, 'layer.tar');
    await makeDebianTar(context, debian, {
      variant: 'minbase',
      include: PACKAGES,
      dpkgOptions: DPKG_OPTIONS,
      customize: join(context.repoDir, 'scripts/setup/base-customize.sh'),
      tar: layerTar,
    });
    const digests = await writeOciLayout(join(dir, 'oci'), {
      name: BASE_NAME,
      layerTar,
      createdAt: new Date(Number(SOURCE_DATE_EPOCH) * 1_000).toISOString(),
      config: { Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'], Cmd: ['bash'] },
    });
    await makeDisk(context, { tars: [layerTar], disk: join(dir, 'disk.raw'), sizeGiB: 8, uuid: UUID });
    await writeFile(join(dir, 'base.json'), JSON.stringify(digests));
  });
  const text = await readFile(join(product.dir, 'base.json'), 'utf8');
  const { layerDigest } = JSON.parse(text) as { layerDigest: string };
  return { product, disk: join(product.dir, 'disk.raw'), layout: join(product.dir, 'oci'), layerDigest };
}
