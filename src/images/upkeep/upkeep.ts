/** The upkeep of images on disk, behind the images room's door: what takes how much, and what may go. */
import { type DiskUse, diskUse } from './disk-use.ts';
import { collectGarbage, type Garbage, type GarbageOptions, type GarbageRequest } from './garbage.ts';

export interface Upkeep {
  /**
   * What takes how much disk: the whole state folder, or one image and its microVMs. @param arn of one image
   * @throws DomainError INVALID, DENIED, NOT_FOUND
   */
  diskUse(arn: string | undefined, options: { signal?: AbortSignal }): Promise<DiskUse>;
  /** One at a time; callers wait for each other. @throws DomainError INVALID */
  collectGarbage(request: GarbageRequest, options: { signal?: AbortSignal }): Promise<Garbage>;
}

export interface UpkeepOptions extends GarbageOptions {
  /** @throws DomainError */
  readonly check: (imageIdentifier: string) => string;
  readonly stopping: AbortSignal;
}

export function createUpkeep(o: UpkeepOptions): Upkeep {
  const bounded = (signal: AbortSignal | undefined) =>
    signal === undefined ? o.stopping : AbortSignal.any([signal, o.stopping]);
  let last: Promise<unknown> = Promise.resolve();
  return {
    diskUse: async (arn, { signal }) => diskUse(o, arn === undefined ? undefined : o.check(arn), bounded(signal)),
    collectGarbage: async (request, { signal }) => {
      const mine = last.then(() => collectGarbage(o, request, bounded(signal)));
      last = mine.catch(() => {});
      return mine;
    },
  };
}
