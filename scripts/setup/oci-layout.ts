/** Writes images of uncompressed layers as one OCI image layout (opencontainers/image-spec), a folder. */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { link, mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';

/** A tar on the same file system as the layout; it is linked, not copied. */
export interface OciLayer {
  readonly tar: string;
  /** As it is uncompressed also its diff id. */
  readonly digest: string;
}

export interface OciImage {
  readonly name: string;
  /** From the bottom. */
  readonly layers: readonly OciLayer[];
  readonly config: { readonly Env: readonly string[]; readonly Cmd: readonly string[] };
}

export async function digestOf(tar: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(tar), hash);
  return `sha256:${hash.digest('hex')}`;
}

/** Returns the manifests' digests in the images' order. Images may share layers. */
export async function writeOciLayout(
  dir: string,
  images: readonly OciImage[],
  options: { createdAt: string },
): Promise<string[]> {
  const blobs = join(dir, 'blobs/sha256');
  await mkdir(blobs, { recursive: true });
  const manifests: { readonly digest: string }[] = [];
  for (const image of images) {
    const manifest = await writeImage(blobs, image, options.createdAt);
    const annotations = { 'org.opencontainers.image.ref.name': image.name };
    manifests.push({ ...manifest, annotations, platform: { architecture: 'amd64', os: 'linux' } } as typeof manifest);
  }
  await writeFile(join(dir, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
  await writeFile(
    join(dir, 'index.json'),
    JSON.stringify({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests }),
  );
  return manifests.map(({ digest }) => digest);
}

async function writeImage(blobs: string, { name, layers, config }: OciImage, createdAt: string) {
  const descriptors = await Promise.all(layers.map((layer) => linkLayer(blobs, layer)));
  const configBlob = await blob(blobs, 'application/vnd.oci.image.config.v1+json', {
    created: createdAt,
    architecture: 'amd64',
    os: 'linux',
    config,
    rootfs: { type: 'layers', diff_ids: layers.map(({ digest }) => digest) },
    history: layers.map(() => ({ created: createdAt, created_by: `rekindle ${name}` })),
  });
  return blob(blobs, 'application/vnd.oci.image.manifest.v1+json', {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: configBlob,
    layers: descriptors,
  });
}

async function linkLayer(blobs: string, { tar, digest }: OciLayer) {
  const at = join(blobs, digest.slice('sha256:'.length));
  if (!existsSync(at)) await link(tar, at);
  return { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest, size: (await stat(tar)).size };
}

async function blob(dir: string, mediaType: string, value: object) {
  const bytes = Buffer.from(JSON.stringify(value));
  const hex = createHash('sha256').update(bytes).digest('hex');
  await writeFile(join(dir, hex), bytes);
  return { mediaType, digest: `sha256:${hex}`, size: bytes.length };
}
