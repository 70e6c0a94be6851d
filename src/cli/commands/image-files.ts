/** `rekindle images export|import|root-disk`: image versions as files. */
import { createReadStream, createWriteStream, existsSync } from 'node:fs';
import { open, rm, stat } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Environment } from '../../config.ts';
import { messageOf, readArchive } from '../../lib/index.ts';
import { getExtension, sendToExtension } from '../clients.ts';
import { CliError, EXIT } from '../exit.ts';
import { type CommonOptions, imageArnOf, openSession, type Session } from '../session.ts';
import { megabytes } from '../terminal.ts';
import { connectorArnOf } from './connectors.ts';
import { followVersion } from './images.ts';

export interface ImportOptions extends CommonOptions {
  readonly name?: string;
  readonly egress?: string;
}

export async function exportImage(
  image: string,
  file: string,
  options: CommonOptions,
  env: Environment,
): Promise<void> {
  const session = await openSession(options, env);
  const { terminal } = session;
  refuseExisting(file);
  const version = await versionOf(session, image);
  const archive = await download(session, version);
  await makeFile(file, async () => {
    const to = createWriteStream(file, { flags: 'wx', mode: 0o600, flush: true });
    await pipeline(archive, to);
  });
  const bytes = (await stat(file)).size;
  terminal.json({ ...version, file, bytes });
  terminal.note('The file is not encrypted; it holds the root disk and the configuration with its variables.');
  terminal.say(`${file}: ${megabytes(bytes)}`);
}

export async function importImage(file: string, options: ImportOptions, env: Environment): Promise<void> {
  const session = await openSession(options, env);
  const { target, terminal } = session;
  const query = new URLSearchParams({ manifest: await digestOf(file) });
  if (options.name !== undefined) query.set('name', options.name);
  if (options.egress !== undefined) query.set('egress', await connectorArnOf(target, options.egress));
  const answer = await sendToExtension(target, '/rekindle/v1/images/import', query, createReadStream(file));
  const { imageArn, imageVersion } = answer as { imageArn: string; imageVersion: string };
  const name = imageArn.slice(imageArn.lastIndexOf(':') + 1);
  terminal.note(`imported as ${name} ${imageVersion}; its snapshot is being made`);
  await followVersion(session, imageArn, imageVersion, `Starting what was imported as ${name} ${imageVersion}`);
  terminal.say(imageArn);
}

export async function exportRootDisk(
  image: string,
  file: string,
  options: CommonOptions,
  env: Environment,
): Promise<void> {
  const session = await openSession(options, env);
  const { terminal } = session;
  refuseExisting(file);
  const version = await versionOf(session, image);
  const archive = await download(session, version);
  let bytes = 0;
  await makeFile(file, async () => {
    const { head, chunks } = await readArchive(archive);
    await using disk = await open(file, 'wx', 0o600);
    bytes = head.parts.find(({ name }) => name === 'disk')?.bytes ?? 0;
    await disk.truncate(bytes);
    for await (const { part, at, data } of chunks()) {
      if (part === 'disk') await disk.writev([data], at);
    }
  });
  terminal.json({ ...version, file, bytes });
  terminal.note("It was written by somebody's build: look into it with debugfs, do not mount it on this host.");
  terminal.say(`${file}: raw ext4, ${megabytes(bytes)} with holes`);
}

/** The signed request vouches for the content by the digest of the manifest at its beginning. */
async function digestOf(file: string): Promise<string> {
  const content = createReadStream(file);
  try {
    return (await readArchive(content)).head.digest;
  } finally {
    content.destroy();
  }
}

export interface ImageVersion {
  readonly imageArn: string;
  readonly imageVersion: string;
}

/** From `name`, `name:1.0` or an ARN with or without a version behind it. */
export async function versionOf({ client, target }: Session, image: string): Promise<ImageVersion> {
  const [, name = image, named] = /^(.*):(\d+\.\d+)$/.exec(image) ?? [];
  const imageArn = imageArnOf(target, name);
  if (named !== undefined) return { imageArn, imageVersion: named };
  const known = await client.getMicrovmImage({ imageIdentifier: imageArn });
  const imageVersion = known.latestActiveImageVersion ?? known.latestFailedImageVersion;
  if (imageVersion === undefined) throw new CliError(`${name} has no version yet.`);
  return { imageArn, imageVersion };
}

function download({ target }: Session, { imageArn, imageVersion }: ImageVersion): Promise<Readable> {
  const path = `/rekindle/v1/images/${encodeURIComponent(imageArn)}/versions/${encodeURIComponent(imageVersion)}/export`;
  return getExtension(target, path, {});
}

function refuseExisting(file: string): void {
  if (existsSync(file)) throw new CliError(`${file} is there already: name another file.`, EXIT.usage);
}

/** A file that could not be finished is not left there. */
async function makeFile(file: string, write: () => Promise<void>): Promise<void> {
  try {
    await write();
  } catch (error) {
    // Made by somebody else since.
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') refuseExisting(file);
    await rm(file, { force: true });
    throw new CliError(`${file} could not be written: ${messageOf(error)}`);
  }
}
