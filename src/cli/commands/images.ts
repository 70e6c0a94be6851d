/** `rekindle images …`: from a folder with a Dockerfile to an image, with its build log as it happens. */
import { readFile } from 'node:fs/promises';
import type { Hooks, LambdaMicrovms, MicrovmImageSummary } from '@aws-sdk/client-lambda-microvms';
import type { Environment } from '../../config.ts';
import { messageOf, sleep } from '../../lib/index.ts';
import { imageNameOf, zipFolder } from '../artifact.ts';
import { callExtension, getExtension, s3Client } from '../clients.ts';
import { CliError, EXIT } from '../exit.ts';
import { type CommonOptions, imageArnOf, openSession, type Session } from '../session.ts';
import type { Target } from '../target.ts';
import { duration, megabytes, table } from '../terminal.ts';
import { connectorArnOf } from './connectors.ts';

export interface BuildOptions extends CommonOptions {
  readonly name?: string;
  readonly memory?: string;
  readonly env?: readonly string[];
  readonly quiet?: boolean;
  /** Name, id or ARN of a connector. */
  readonly egress?: string;
  /** A JSON file: the `hooks` of CreateMicrovmImage. */
  readonly hooks?: string;
}

const POLL_MS = 100;

export async function buildImage(folder: string, options: BuildOptions, env: Environment): Promise<void> {
  const name = options.name ?? imageNameOf(folder);
  const environmentVariables = parseVariables(options.env ?? []);
  const memoryMiB = options.memory === undefined ? undefined : Number(options.memory);
  const hooks = options.hooks === undefined ? undefined : await readHooks(options.hooks);
  const { bytes, files } = await zipFolder(folder);
  const session = await openSession(options, env);
  const { terminal, target, client } = session;
  const startedAt = performance.now();
  terminal.note(`zipped ${files} files, ${megabytes(bytes.length)}`);
  const uri = await upload(target, `${name}.zip`, bytes);
  terminal.note(`uploaded to ${uri}`);
  const imageArn = imageArnOf(target, name);
  const egress = options.egress === undefined ? undefined : await connectorArnOf(target, options.egress);
  const configuration = {
    baseImageArn: target.baseImageArn,
    buildRoleArn: target.buildRoleArn,
    codeArtifact: { uri },
    ...(egress === undefined ? {} : { egressNetworkConnectors: [egress] }),
    ...(memoryMiB === undefined ? {} : { resources: [{ minimumMemoryInMiB: memoryMiB }] }),
    ...(environmentVariables === undefined ? {} : { environmentVariables }),
    ...(hooks === undefined ? {} : { hooks }),
  };
  const { imageVersion: version = '1.0' } = (await exists(client, imageArn))
    ? await client.updateMicrovmImage({ imageIdentifier: imageArn, ...configuration })
    : await client.createMicrovmImage({ name, ...configuration });
  terminal.note(`building ${name} ${version}`);
  if (options.quiet !== true) await followBuild(session, imageArn, version);
  const settled = await waitForImage(client, imageArn, version);
  const tookMs = performance.now() - startedAt;
  terminal.json({ imageArn, imageVersion: version, ...settled, tookMs: Math.round(tookMs) });
  if (!settled.isUsable) {
    throw new CliError(`Building ${name} failed: ${settled.stateReason ?? 'no reason given'}`, EXIT.buildFailed);
  }
  terminal.note(
    `${name} ${version} is ${settled.state} after ${duration(tookMs)}; start one with: rekindle run ${name}`,
  );
  terminal.say(imageArn);
}

/** What is in them is for the server to judge. @throws CliError usage */
async function readHooks(file: string): Promise<Hooks> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Hooks;
  } catch (error) {
    const example = '{"port": 9000, "microvmHooks": {"run": "ENABLED"}}';
    throw new CliError(`--hooks takes a JSON file such as ${example}: ${messageOf(error)}`, EXIT.usage);
  }
}

async function exists(client: LambdaMicrovms, imageArn: string): Promise<boolean> {
  try {
    await client.getMicrovmImage({ imageIdentifier: imageArn });
    return true;
  } catch (error) {
    if (error instanceof Error && error.name === 'ResourceNotFoundException') return false;
    throw error;
  }
}

/** Puts bytes into the artifact bucket. @returns their s3:// URI */
export async function upload(target: Target, key: string, bytes: Buffer): Promise<string> {
  const [client, { PutObjectCommand }] = await Promise.all([s3Client(target), import('@aws-sdk/client-s3')]);
  try {
    await client.send(new PutObjectCommand({ Bucket: target.artifactBucket, Key: key, Body: bytes }));
  } finally {
    client.destroy();
  }
  return `s3://${target.artifactBucket}/${key}`;
}

/** Follows the making of a version that does not come from the wire's own operations, and says how it ended. */
export async function followVersion(session: Session, imageArn: string, version: string, what: string): Promise<void> {
  const { client, terminal } = session;
  await followBuild(session, imageArn, version);
  const settled = await waitForImage(client, imageArn, version);
  terminal.json({ imageArn, imageVersion: version, ...settled });
  if (!settled.isUsable) {
    throw new CliError(`${what} failed: ${settled.stateReason ?? 'no reason given'}`, EXIT.buildFailed);
  }
}

/** Copies the build log to stderr until the build ended. */
async function followBuild({ target, terminal }: Session, imageArn: string, version: string): Promise<void> {
  try {
    const log = await getExtension(target, buildLogPath(imageArn, version), { follow: 'true' });
    for await (const chunk of log) process.stderr.write(chunk);
  } catch (error) {
    terminal.note(`(the build log is not to be had: ${messageOf(error)})`);
  }
}

export function buildLogPath(imageArn: string, version: string): string {
  return `/rekindle/v1/images/${encodeURIComponent(imageArn)}/versions/${encodeURIComponent(version)}/build-log`;
}

export interface SettledImage {
  readonly state: string;
  readonly isUsable: boolean;
  readonly stateReason: string | undefined;
}

/** Polls until the image settled; the reason of a failure stands on the build (behaviour.md §3.4). */
export async function waitForImage(
  client: LambdaMicrovms,
  imageArn: string,
  version: string,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<SettledImage> {
  for (;;) {
    const { state = 'CREATING' } = await client.getMicrovmImage({ imageIdentifier: imageArn });
    if (state === 'CREATED' || state === 'UPDATED') return { state, isUsable: true, stateReason: undefined };
    if (state !== 'CREATING' && state !== 'UPDATING') {
      return { state, isUsable: false, stateReason: await reasonOf(client, imageArn, version) };
    }
    await sleep(POLL_MS, { signal: options.signal });
  }
}

async function reasonOf(client: LambdaMicrovms, imageArn: string, version: string): Promise<string | undefined> {
  try {
    const { items = [] } = await client.listMicrovmImageBuilds({ imageIdentifier: imageArn, imageVersion: version });
    const reason = items.find((build) => build.stateReason !== undefined)?.stateReason;
    if (reason !== undefined) return reason;
  } catch {}
  return (await client.getMicrovmImageVersion({ imageIdentifier: imageArn, imageVersion: version })).stateReason;
}

export async function listImages(options: CommonOptions, env: Environment): Promise<void> {
  const { client, terminal } = await openSession(options, env);
  const items: MicrovmImageSummary[] = [];
  let nextToken: string | undefined;
  do {
    const page = await client.listMicrovmImages({ ...(nextToken === undefined ? {} : { nextToken }) });
    items.push(...(page.items ?? []));
    nextToken = page.nextToken;
  } while (nextToken !== undefined);
  terminal.json(items);
  const rows = items.map((image) => [
    image.name ?? '',
    image.state ?? '',
    image.latestActiveImageVersion ?? '-',
    image.createdAt?.toISOString() ?? '',
  ]);
  terminal.say(
    rows.length === 0
      ? 'No images. Build one: rekindle images build <folder>'
      : table(['NAME', 'STATE', 'ACTIVE', 'CREATED'], rows),
  );
}

export async function removeImage(image: string, options: CommonOptions, env: Environment): Promise<void> {
  const { client, target, terminal } = await openSession(options, env);
  const imageArn = imageArnOf(target, image);
  const { state } = await client.deleteMicrovmImage({ imageIdentifier: imageArn });
  terminal.json({ imageArn, state });
  terminal.say(`${imageArn} is ${state}`);
}

export async function rebuildImage(
  image: string,
  options: CommonOptions & { readonly imageVersion?: string },
  env: Environment,
): Promise<void> {
  const session = await openSession(options, env);
  const { client, target, terminal } = session;
  const imageArn = imageArnOf(target, image);
  const known = await client.getMicrovmImage({ imageIdentifier: imageArn });
  const from = options.imageVersion ?? known.latestFailedImageVersion ?? known.latestActiveImageVersion ?? '1.0';
  const path = `/rekindle/v1/images/${encodeURIComponent(imageArn)}/versions/${encodeURIComponent(from)}/rebuild`;
  const { imageVersion } = (await callExtension(target, 'POST', path)) as { imageVersion: string };
  terminal.note(`rebuilding version ${from} as ${imageVersion}`);
  await followVersion(session, imageArn, imageVersion, `Rebuilding version ${from}`);
  terminal.say(imageVersion);
}

export async function imageLog(
  image: string,
  options: CommonOptions & { readonly imageVersion?: string; readonly follow?: boolean },
  env: Environment,
): Promise<void> {
  const { target, terminal, client } = await openSession(options, env);
  const imageArn = imageArnOf(target, image);
  const known = await client.getMicrovmImage({ imageIdentifier: imageArn });
  const version = options.imageVersion ?? known.latestActiveImageVersion ?? known.latestFailedImageVersion ?? '1.0';
  const log = await getExtension(
    target,
    buildLogPath(imageArn, version),
    options.follow === true ? { follow: 'true' } : {},
  );
  if (!terminal.isJson) {
    for await (const chunk of log) await terminal.raw(chunk);
    return;
  }
  let text = '';
  for await (const chunk of log.setEncoding('utf8')) text += chunk;
  terminal.json({ imageArn, imageVersion: version, log: text });
}

function parseVariables(pairs: readonly string[]): Record<string, string> | undefined {
  if (pairs.length === 0) return undefined;
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf('=');
      if (at < 1) throw new CliError(`--env takes NAME=value, not "${pair}".`, EXIT.usage);
      return [pair.slice(0, at), pair.slice(at + 1)];
    }),
  );
}
