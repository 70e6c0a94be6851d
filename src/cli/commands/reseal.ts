/** `rekindle images reseal`: snapshots made anew for this host's QEMU and kernel, without a new version. */
import type { Environment } from '../../config.ts';
import { messageOf } from '../../lib/index.ts';
import { callExtension } from '../clients.ts';
import { CliError, EXIT } from '../exit.ts';
import { type CommonOptions, openSession, type Session } from '../session.ts';
import { type ImageVersion, versionOf } from './image-files.ts';

export interface ResealOptions extends CommonOptions {
  readonly all?: boolean;
}

interface Resealed extends ImageVersion {
  readonly snapshot: number;
  readonly isNew: boolean;
}

export async function resealImages(image: string | undefined, options: ResealOptions, env: Environment): Promise<void> {
  if ((image === undefined) === (options.all !== true)) {
    throw new CliError('Name an image, or all of them with --all.', EXIT.usage);
  }
  const session = await openSession(options, env);
  const { terminal } = session;
  if (image !== undefined) {
    const done = await reseal(session, await versionOf(session, image), false);
    terminal.json(done);
    terminal.say(sentence(done));
    return;
  }
  const done: Resealed[] = [];
  let failed = 0;
  for (const version of await usableVersions(session)) {
    try {
      const one = await reseal(session, version, true);
      done.push(one);
      if (one.isNew) terminal.say(sentence(one));
    } catch (error) {
      failed += 1;
      terminal.note(`${nameOf(version)}: ${messageOf(error)}`);
    }
  }
  terminal.json(done);
  const count = done.filter(({ isNew }) => isNew).length;
  terminal.say(`${count} sealed anew, ${done.length - count} fit as they are`);
  if (failed > 0) throw new CliError(`${failed} could not be sealed anew.`);
}

async function reseal({ target }: Session, version: ImageVersion, ifNeeded: boolean): Promise<Resealed> {
  const [arn, number] = [encodeURIComponent(version.imageArn), encodeURIComponent(version.imageVersion)];
  const path = `/rekindle/v1/images/${arn}/versions/${number}/reseal${ifNeeded ? '?ifNeeded=true' : ''}`;
  return (await callExtension(target, 'POST', path)) as Resealed;
}

async function usableVersions({ client }: Session): Promise<ImageVersion[]> {
  const found: ImageVersion[] = [];
  for (const imageIdentifier of await imageArns(client)) {
    let nextToken: string | undefined;
    do {
      const page = await client.listMicrovmImageVersions({ imageIdentifier, ...(nextToken && { nextToken }) });
      for (const { imageVersion, state } of page.items ?? []) {
        if (imageVersion !== undefined && state === 'SUCCESSFUL')
          found.push({ imageArn: imageIdentifier, imageVersion });
      }
      nextToken = page.nextToken;
    } while (nextToken !== undefined);
  }
  return found;
}

async function imageArns(client: Session['client']): Promise<string[]> {
  const found: string[] = [];
  let nextToken: string | undefined;
  do {
    const page = await client.listMicrovmImages({ ...(nextToken && { nextToken }) });
    for (const { imageArn } of page.items ?? []) if (imageArn !== undefined) found.push(imageArn);
    nextToken = page.nextToken;
  } while (nextToken !== undefined);
  return found;
}

function sentence(done: Resealed): string {
  return `${nameOf(done)} is launched from its snapshot ${done.snapshot} now`;
}

function nameOf({ imageArn, imageVersion }: ImageVersion): string {
  return `${imageArn.slice(imageArn.lastIndexOf(':') + 1)}:${imageVersion}`;
}
