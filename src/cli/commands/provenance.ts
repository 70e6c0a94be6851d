/** `rekindle images provenance`: how a version came to be, for people and tools. */
import type { Environment } from '../../config.ts';
import { callExtension } from '../clients.ts';
import { type CommonOptions, openSession } from '../session.ts';
import { versionOf } from './image-files.ts';

export interface ProvenanceOptions extends CommonOptions {
  readonly packages?: boolean;
}

export async function provenance(image: string, options: ProvenanceOptions, env: Environment): Promise<void> {
  const session = await openSession(options, env);
  const { imageArn, imageVersion } = await versionOf(session, image);
  const what = options.packages === true ? 'packages' : 'provenance';
  const path = `/rekindle/v1/images/${encodeURIComponent(imageArn)}/versions/${encodeURIComponent(imageVersion)}/${what}`;
  const found = (await callExtension(session.target, 'GET', path)) as object;
  const { terminal } = session;
  if (terminal.isJson) terminal.json(found);
  else terminal.say(JSON.stringify(found, null, 2));
}
