/** Writes an image of one uncompressed layer as an OCI image layout (opencontainers/image-spec), a folder. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { link, mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';

export interface OciImage {
  readonly name: string;
  /** Tar on the same file system as the layout; it is linked, not copied. */
  readonly layerTar: string;
  readonly createdAt: string;
  readonly config: { readonly Env: readonly string[]; readonly Cmd: readonly string[] };
}

/** Returns the digest of the layer, which as it is uncompressed is also its diff id. */
export async function writeOciLayout(dir: string, image: OciImage): Promise<{ layerDigest: string; digest: string }> {
  const blobs = join(dir, 'blobs/sha256');
  await mkdir(blobs, { recursive: true });
  const layerHash = createHash('sha256');
  await pipeline(createReadStream(image.layerTar), layerHash);
  const layerHex = layerHash.digest('hex');
  await link(image.layerTar, join(blobs, layerHex));
  const layer = {
    mediaType: 'application/vnd.oci.image.layer.v1.tar',
    digest: `sha256:${layerHex}`,
    size: (await stat(image.layerTar)).size,
  };
  const config = await blob(blobs, 'application/vnd.oci.image.config.v1+json', {
    created: image.createdAt,
    architecture: 'amd64',
    os: 'linux',
    config: image.config,
    rootfs: { type: 'layers', diff_ids: [layer.digest] },
    history: [{ created: image.createdAt, created_by: `rekindle ${image.name}` }],
  });
  const manifest = await blob(blobs, 'application/vnd.oci.image.manifest.v1+json', {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config,
    layers: [layer],
  });
  const annotations = { 'org.opencontainers.image.ref.name': image.name };
  await writeFile(join(dir, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
  await writeFile(
    join(dir, 'index.json'),
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.index.v1+json',
      manifests: [{ ...manifest, annotations, platform: { architecture: 'amd64', os: 'linux' } }],
    }),
  );
  return { layerDigest: layer.digest, digest: manifest.digest };
}

async function blob(dir: string, mediaType: string, value: object) {
  const bytes = Buffer.from(JSON.stringify(value));
  const hex = createHash('sha256').update(bytes).digest('hex');
  await writeFile(join(dir, hex), bytes);
  return { mediaType, digest: `sha256:${hex}`, size: bytes.length };
}
