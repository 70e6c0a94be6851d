/**
 * Reads after the server's start what launches will most likely want: the first launch of a version proves all its parts before the
 * guest may run, which takes as long as the disk does, and what was read is in memory then. Nothing waits for it, one after another,
 * and no more than `MAX_IMAGES`: more would drive each other out of memory again.
 */
import type { Engine } from '../engine/index.ts';
import { type Logger, messageOf } from '../lib/index.ts';
import type { Row } from '../store/index.ts';
import type { Catalog } from './catalog.ts';
import type { ImageRecord } from './lifecycle.ts';

/** The newest ones. */
const MAX_IMAGES = 16;

export interface ProvingOptions {
  readonly engine: Pick<Engine, 'prove'>;
  readonly catalog: Pick<Catalog, 'images'>;
  /** Of the version that a launch of the image gets. @throws DomainError when there is none */
  readonly snapshotDirOf: (imageArn: string) => Promise<string>;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/** Never rejects; what it finds damaged the engine tells its listeners. */
export async function proveAhead({ engine, catalog, snapshotDirOf, log, signal }: ProvingOptions): Promise<void> {
  let images: readonly Row<ImageRecord>[] = [];
  try {
    if (engine.prove !== undefined && !signal.aborted) images = await catalog.images.list({ limit: MAX_IMAGES });
  } catch (error) {
    log.warn({ error: messageOf(error) }, 'no version was read ahead of its first launch');
  }
  for (const { id, body } of images) {
    if (signal.aborted) return;
    if (body.latestActiveVersion === null) continue;
    try {
      await engine.prove?.(await snapshotDirOf(id));
    } catch (error) {
      // Its launch says what is wrong, and tells the caller.
      if (!signal.aborted) log.warn({ imageArn: id, error: messageOf(error) }, 'a version was not read ahead');
    }
  }
}
