/** What an artifact is, for the provenance of what is built of it: read before anything of it runs. */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import path from 'node:path';
import { type BuildFacts, MAX_DOCKERFILE_LENGTH } from './facts.ts';

/** Null when there is no such file; the build says what is wrong then. */
export async function dockerfileIn(contextDir: string): Promise<BuildFacts['dockerfile'] | null> {
  try {
    await using file = await open(path.join(contextDir, 'Dockerfile'), constants.O_RDONLY | constants.O_NOFOLLOW);
    const hash = createHash('sha256');
    let text: string | null = '';
    const decoder = new TextDecoder();
    for await (const chunk of file.createReadStream({ autoClose: false })) {
      hash.update(chunk as Buffer);
      text = text === null ? null : text + decoder.decode(chunk as Buffer, { stream: true });
      if (text !== null && text.length > MAX_DOCKERFILE_LENGTH) text = null;
    }
    return { sha256: hash.digest('hex'), text };
  } catch {
    return null;
  }
}
