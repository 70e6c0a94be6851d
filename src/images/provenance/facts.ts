/**
 * What is known of how a version came to be, kept as `provenance.json` in its folder; the version's record has the file's digest.
 * It is written once. What its snapshots are made of stands in their manifests, so a version sealed anew needs no other file.
 */
import { createHash } from 'node:crypto';
import { open, readFile } from 'node:fs/promises';
import path from 'node:path';
import { type DiskOrigin, readOrigin } from '../../engine/index.ts';
import { DomainError } from '../../lib/index.ts';
import type { Owner } from '../image-arn.ts';

export const PROVENANCE_NAME = 'provenance.json';
const GENERATION = 1;
/** A longer Dockerfile is known by its digest alone; the artifact has it. */
export const MAX_DOCKERFILE_LENGTH = 65_536;
const MAX_STEPS = 64;
const MAX_TEXT_LENGTH = 4096;

/** Of the build that made the root disk, here or elsewhere. */
export interface BuildFacts {
  readonly artifact: { readonly uri: string; readonly bytes: number; readonly sha256: string };
  readonly dockerfile: { readonly sha256: string; readonly text: string | null };
  /** ARN of the managed image. */
  readonly baseImageArn: string;
  readonly origin: DiskOrigin;
  readonly builder: { readonly runtime: string; readonly kernel: string; readonly vmm: string };
  readonly buildId: string;
  readonly startedAt: number;
  readonly finishedAt: number;
  /** The root disk is that of an earlier build of the very same. */
  readonly isReused: boolean;
}

/** Why a version has a root disk that was not built for it. */
export type ProvenanceStep =
  | { readonly kind: 'rebuilt'; readonly imageVersion: string }
  | { readonly kind: 'imported'; readonly from: Owner; readonly imageName: string; readonly imageVersion: string };

export interface ProvenanceFacts {
  readonly generation: 1;
  readonly build: BuildFacts;
  /** From the build to this version, in order. */
  readonly steps: readonly ProvenanceStep[];
  /** The root disk the build made: the digest a snapshot's manifest has of it. */
  readonly disk: string;
  /** Of this version's own making. */
  readonly made: { readonly buildId: string; readonly at: number; readonly log: { bytes: number; sha256: string } };
}

/** Writes the file. @returns its SHA-256 */
export async function writeFacts(dir: string, facts: ProvenanceFacts): Promise<string> {
  const text = `${JSON.stringify(facts)}\n`;
  await using file = await open(path.join(dir, PROVENANCE_NAME), 'w', 0o600);
  await file.writeFile(text);
  await file.sync();
  return digestOf(text);
}

/** Undefined when there is none, or it is not the one of this digest. */
export async function readFacts(dir: string, sha256: string | undefined): Promise<ProvenanceFacts | undefined> {
  if (sha256 === undefined) return undefined;
  const text = await readFile(path.join(dir, PROVENANCE_NAME), 'utf8').catch(() => undefined);
  return text === undefined || digestOf(text) !== sha256 ? undefined : (JSON.parse(text) as ProvenanceFacts);
}

/** From a file that anybody may have written. @throws DomainError `INVALID` */
export function decodeFacts(value: unknown): ProvenanceFacts {
  const { generation, build, steps, disk, made } = record(value);
  if (generation !== GENERATION) throw bad();
  const { artifact, dockerfile, baseImageArn, origin, builder, buildId, startedAt, finishedAt, isReused } =
    record(build);
  const { uri, bytes, sha256 } = record(artifact);
  const { sha256: dockerfileDigest, text: dockerfileText } = record(dockerfile);
  const { runtime, kernel, vmm } = record(builder);
  const { buildId: madeId, at, log } = record(made);
  const { bytes: logBytes, sha256: logDigest } = record(log);
  if (!Array.isArray(steps) || steps.length > MAX_STEPS || typeof isReused !== 'boolean') throw bad();
  return {
    generation: GENERATION,
    build: {
      artifact: { uri: text(uri), bytes: count(bytes), sha256: digest(sha256) },
      dockerfile: {
        sha256: digest(dockerfileDigest),
        text: dockerfileText === null ? null : text(dockerfileText, MAX_DOCKERFILE_LENGTH),
      },
      baseImageArn: text(baseImageArn),
      origin: originIn(origin),
      builder: { runtime: text(runtime), kernel: text(kernel), vmm: text(vmm) },
      buildId: text(buildId),
      startedAt: count(startedAt),
      finishedAt: count(finishedAt),
      isReused,
    },
    steps: steps.map(step),
    disk: digest(disk),
    made: { buildId: text(madeId), at: count(at), log: { bytes: count(logBytes), sha256: digest(logDigest) } },
  };
}

function step(value: unknown): ProvenanceStep {
  const { kind, from, imageName, imageVersion } = record(value);
  if (kind === 'rebuilt') return { kind, imageVersion: text(imageVersion) };
  if (kind !== 'imported') throw bad();
  const { region, accountId } = record(from);
  const owner = { region: text(region), accountId: text(accountId) };
  return { kind, from: owner, imageName: text(imageName), imageVersion: text(imageVersion) };
}

function originIn(value: unknown): DiskOrigin {
  try {
    return readOrigin(value);
  } catch {
    throw bad();
  }
}

function digest(value: unknown): string {
  const found = text(value);
  if (!/^[0-9a-f]{64}$/.test(found)) throw bad();
  return found;
}

/** An instant has to be one that can be written as a date. */
function count(value: unknown): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 && value <= 8.64e15) return value;
  throw bad();
}

function text(value: unknown, most = MAX_TEXT_LENGTH): string {
  if (typeof value === 'string' && value.length <= most) return value;
  throw bad();
}

function record(value: unknown): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { ...value };
  throw bad();
}

function bad(): DomainError {
  return new DomainError('INVALID', 'The file cannot be imported: its provenance has a wrong shape.');
}

function digestOf(bytes: string): string {
  return createHash('sha256').update(bytes).digest('hex');
}
