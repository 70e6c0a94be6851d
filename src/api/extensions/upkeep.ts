/**
 * The upkeep of images: what takes how much disk, clearing away what nobody needs, versions as files.
 *
 *   GET  /rekindle/v1/disk[?image={arn}]   rekindle:GetDiskUse on the image, or on * for everything
 *   POST /rekindle/v1/images/gc            rekindle:CollectGarbage on *
 *   GET  …/versions/{version}/export       rekindle:ExportMicrovmImageVersion on the image
 *   POST /rekindle/v1/images/import?…      rekindle:ImportMicrovmImageVersion on the image to be, and what a
 *                                          CreateMicrovmImage with the file's configuration takes
 *
 * The body of the second may be {"dryRun": true, "keep": 3, "olderThanDays": 30}, each member left out or not.
 */
import type { DiskUse, Garbage, GarbageRequest, UpdatedImageView, Upkeep } from '../../images/index.ts';
import { DomainError } from '../../lib/index.ts';
import type { ExtensionRequest } from './extensions.ts';

export interface UpkeepCall {
  readonly asked: ExtensionRequest;
  readonly upkeep: Upkeep;
  readonly signal: AbortSignal;
}

const MAX_COUNT = 100_000;

export async function answerDisk({ asked, upkeep, signal }: UpkeepCall, image: string | undefined): Promise<DiskUse> {
  asked.demand('rekindle:GetDiskUse', image ?? '*');
  return upkeep.diskUse(image, { signal });
}

export async function answerGarbage({ asked, upkeep, signal }: UpkeepCall): Promise<Garbage> {
  asked.demand('rekindle:CollectGarbage', '*');
  return upkeep.collectGarbage(garbageRequest(asked.body), { signal });
}

export const IMPORT_PATH = /^\/rekindle\/v1\/images\/import$/;

/** `manifest` is the SHA-256 of the file's manifest; `egress`, repeatable, stands in for its connectors. */
export async function answerImport(
  { asked, upkeep, signal }: UpkeepCall,
  query: URLSearchParams,
): Promise<UpdatedImageView> {
  const { content, checkOperation } = asked;
  const manifestDigest = query.get('manifest') ?? '';
  if (!/^[0-9a-f]{64}$/.test(manifestDigest)) {
    throw new DomainError('INVALID', "manifest must be the SHA-256 of the file's manifest, in hexadecimal.");
  }
  if (content === undefined || checkOperation === undefined) throw new DomainError('INVALID', 'There is no file.');
  const egress = query.getAll('egress');
  return upkeep.importVersion(
    content,
    {
      name: query.get('name') ?? undefined,
      ...(egress.length > 0 && { egressNetworkConnectors: egress }),
      manifestDigest,
      accept: async (body, imageArn) => {
        asked.demand('rekindle:ImportMicrovmImageVersion', imageArn);
        return checkOperation('CreateMicrovmImage', body);
      },
    },
    { signal },
  );
}

function garbageRequest(body: Buffer): GarbageRequest {
  const { dryRun = false, keep, olderThanDays, ...rest } = objectIn(body);
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) throw new DomainError('INVALID', `The member ${JSON.stringify(unknown)} is unknown.`);
  if (typeof dryRun !== 'boolean') throw new DomainError('INVALID', 'dryRun must be true or false.');
  return { dryRun, keep: count(keep, 'keep'), olderThanDays: count(olderThanDays, 'olderThanDays') };
}

function objectIn(body: Buffer): Record<string, unknown> {
  if (body.length === 0) return {};
  try {
    const found: unknown = JSON.parse(body.toString('utf8'));
    if (typeof found === 'object' && found !== null && !Array.isArray(found)) return { ...found };
  } catch {}
  throw new DomainError('INVALID', 'The body must be a JSON object.');
}

function count(value: unknown, member: string): number | undefined {
  if (value === undefined) return undefined;
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= MAX_COUNT) return value;
  throw new DomainError('INVALID', `${member} must be a whole number from 0 to ${MAX_COUNT}.`);
}
