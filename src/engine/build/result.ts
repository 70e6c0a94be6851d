/**
 * What the builder guest left behind: the result record and the root disk. Both come from a guest that ran somebody's RUN
 * steps, so every size and shape is checked; the disk's file system is never mounted here.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { MachineError } from '../../lib/index.ts';
import type { ContainerConfig } from '../engine.ts';
import { type DiskOrigin, readOrigin } from './origin.ts';

const MAGIC = 'RKRESULT';
/** Ten thousand packages with long names, and a config. */
const MAX_RESULT_BYTES = 8 * 1024 * 1024;
const MAX_STRINGS = 4096;
const MAX_STRING_LENGTH = 131_072;

/** @throws MachineError `protocol` */
export async function readResult(
  file: FileHandle,
): Promise<{ config: ContainerConfig; usedBytes: number; origin?: DiskOrigin }> {
  const head = Buffer.alloc(MAGIC.length + 4);
  await file.read(head, 0, head.length, 0);
  const length = head.readUInt32BE(MAGIC.length);
  if (head.toString('latin1', 0, MAGIC.length) !== MAGIC || length > MAX_RESULT_BYTES) throw bad('has no result');
  const body = Buffer.alloc(length);
  await file.read(body, 0, length, head.length);
  let value: unknown;
  try {
    value = JSON.parse(body.toString('utf8'));
  } catch {
    throw bad('wrote no JSON');
  }
  const { config, usedBytes, origin } = record(value);
  if (typeof usedBytes !== 'number' || !Number.isSafeInteger(usedBytes) || usedBytes < 0) throw bad('gave no size');
  return {
    config: containerConfig(record(config ?? {})),
    usedBytes,
    ...(origin !== undefined && { origin: readOrigin(origin) }),
  };
}

/** The bytes `readResult` found good. */
export async function resultBytes(file: FileHandle): Promise<Buffer> {
  const head = Buffer.alloc(MAGIC.length + 4);
  await file.read(head, 0, head.length, 0);
  const bytes = Buffer.alloc(head.length + Math.min(MAX_RESULT_BYTES, head.readUInt32BE(MAGIC.length)));
  await file.read(bytes, 0, bytes.length, 0);
  return bytes;
}

/** From the `config` object of an OCI image. */
function containerConfig(config: Record<string, unknown>): ContainerConfig {
  const exposed = Object.keys(record(config.ExposedPorts ?? {})).filter((key) => !/\/(udp|sctp)$/i.test(key));
  const ports = exposed.map((key) => Number.parseInt(key, 10));
  return {
    entrypoint: strings(config.Entrypoint),
    cmd: strings(config.Cmd),
    env: strings(config.Env).filter((entry) => entry.indexOf('=') > 0),
    workingDir: text(config.WorkingDir) || '/',
    user: text(config.User),
    exposedPorts: ports.filter((port) => port >= 1 && port <= 65_535).slice(0, MAX_STRINGS),
  };
}

/** Length of the ext4 file system at the start of a disk. @throws MachineError `protocol` when there is none or it is longer */
export async function fileSystemBytes(diskPath: string): Promise<number> {
  await using file = await open(diskPath, 'r');
  const { size } = await file.stat();
  const superblock = Buffer.alloc(1024);
  await file.read(superblock, 0, superblock.length, 1024);
  if (superblock.readUInt16LE(0x38) !== 0xef53) throw bad('left no file system');
  const isLarge = (superblock.readUInt32LE(0x60) & 0x80) !== 0;
  const blocks = superblock.readUInt32LE(4) + (isLarge ? superblock.readUInt32LE(0x150) * 2 ** 32 : 0);
  const logBlockBytes = superblock.readUInt32LE(0x18);
  const bytes = logBlockBytes <= 6 ? blocks * 2 ** (10 + logBlockBytes) : 0;
  if (bytes === 0 || bytes > size) throw bad('left a file system larger than its disk');
  return bytes;
}

function strings(value: unknown): string[] {
  if (value === null || value === undefined) return [];
  if (!Array.isArray(value) || value.length > MAX_STRINGS) throw bad('gave a config of a wrong shape');
  return value.map(text);
}

function text(value: unknown): string {
  if (value === null || value === undefined) return '';
  if (typeof value !== 'string' || value.length > MAX_STRING_LENGTH || value.includes('\0')) {
    throw bad('gave a config of a wrong shape');
  }
  return value;
}

function record(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad('gave a config of a wrong shape');
  return value as Record<string, unknown>;
}

function bad(what: string): MachineError {
  return new MachineError('protocol', `the builder ${what}`);
}
