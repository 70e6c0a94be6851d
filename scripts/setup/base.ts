/**
 * The managed base image: a small Debian with curl, Python and pip, as a layer for the builder and as a ready ext4 disk
 * that images built from it start from. What Dockerfiles call it: base-names.ts.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Debian, GUEST_RELEASE } from './debian.ts';
import { makeDebianTar, makeDisk } from './disk.ts';
import { digestOf, type OciLayer } from './oci-layout.ts';
import type { SetupContext } from './setup-context.ts';
import type { Product } from './steps.ts';

export const BASE_NAME = 'al2023-1';
/** libatomic1 is for the layer with Node. */
const PACKAGES = ['ca-certificates', 'curl', 'libatomic1', 'python3', 'python3-pip'];
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
export interface ManagedBase {
  readonly product: Product;
  readonly disk: string;
  readonly layer: OciLayer;
}

export async function setUpBase(context: SetupContext, debian: Debian): Promise<ManagedBase> {
  const dnf = await readFile(join(context.repoDir, 'scripts/setup/dnf.sh'), 'utf8');
  const inputs = {
    recipe: 4,
    release: GUEST_RELEASE,
    packages: PACKAGES,
    dpkg: DPKG_OPTIONS,
    dnf,
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
      texts: { REKINDLE_DNF: dnf.trimEnd() },
      tar: layerTar,
    });
    await makeDisk(context, { tars: [layerTar], disk: join(dir, 'disk.raw'), sizeGiB: 8, uuid: UUID });
    await writeFile(join(dir, 'digest'), await digestOf(layerTar));
  });
  const digest = await readFile(join(product.dir, 'digest'), 'utf8');
  return { product, disk: join(product.dir, 'disk.raw'), layer: { tar: join(product.dir, 'layer.tar'), digest } };
}
