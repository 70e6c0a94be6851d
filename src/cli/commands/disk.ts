/** `rekindle du` and `rekindle images gc`: what takes disk in the server's state folder, and clearing away what nobody needs. */
import { text } from 'node:stream/consumers';
import type { Environment } from '../../config.ts';
import { callExtension, getExtension } from '../clients.ts';
import { CliError, EXIT } from '../exit.ts';
import { type CommonOptions, imageArnOf } from '../session.ts';
import { findTarget } from '../target.ts';
import { createTerminal, megabytes, type Terminal, table } from '../terminal.ts';

interface Space {
  readonly bytes: number;
  readonly apparentBytes: number;
}

interface Named extends Space {
  readonly name: string;
}

interface Version extends Space {
  readonly imageVersion: string;
  readonly state: string;
  readonly status: string;
  readonly parts: Readonly<Record<'ram' | 'state' | 'disk' | 'changes', Space>>;
  readonly earlier: Space;
  readonly microvms: Space & { readonly count: number };
}

interface DiskUse {
  readonly total: Space;
  readonly images: readonly (Named & { readonly versions: readonly Version[] })[];
  readonly microvms: readonly (Space & {
    readonly microvmId: string;
    readonly imageArn: string;
    readonly imageVersion: string;
    readonly state: string;
    readonly overlay: Space;
    readonly suspended: Space;
    readonly checkpoints: Space;
  })[];
  readonly builds?: readonly Named[];
  readonly imports?: readonly Named[];
  readonly caches?: readonly Named[];
  readonly logs?: readonly Named[];
  readonly buckets?: readonly Named[];
  readonly others?: readonly Named[];
  readonly unowned?: readonly (Space & { readonly path: string; readonly why: string })[];
  readonly fileSystem: { readonly bytes: number; readonly freeBytes: number };
}

export async function diskUse(image: string | undefined, options: CommonOptions, env: Environment): Promise<void> {
  const target = findTarget(options, env);
  const terminal = createTerminal({ json: options.json === true });
  const query: Record<string, string> = image === undefined ? {} : { image: imageArnOf(target, image) };
  const use = JSON.parse(await text(await getExtension(target, '/rekindle/v1/disk', query))) as DiskUse;
  terminal.json(use);
  if (terminal.isJson) return;
  const tables = [versionsOf(use), microvmsOf(use), restOf(use), unownedOf(use)].filter((found) => found !== '');
  for (const found of tables) terminal.say(`${found}\n`);
  const { bytes, apparentBytes } = use.total;
  const { freeBytes } = use.fileSystem;
  terminal.say(
    `${megabytes(bytes)} on disk (${megabytes(apparentBytes)} with holes); ${megabytes(freeBytes)} of the file system are free`,
  );
}

function versionsOf({ images }: DiskUse): string {
  const rows = images.flatMap(({ name, versions }) =>
    versions.map((version) => [
      name,
      version.imageVersion,
      version.state === 'SUCCESSFUL' ? version.status : version.state,
      size(version),
      size(version.parts.ram),
      size(version.parts.state),
      size(version.parts.disk),
      size(version.parts.changes),
      size(version.earlier),
      version.microvms.count === 0 ? '-' : `${version.microvms.count} (${size(version.microvms)})`,
    ]),
  );
  if (rows.length === 0) return '';
  return table(
    ['IMAGE', 'VERSION', 'STATE', 'ON DISK', 'MEMORY', 'DEVICES', 'ROOT DISK', 'CHANGES', 'EARLIER', 'MICROVMS'],
    rows,
  );
}

function microvmsOf({ microvms }: DiskUse): string {
  const rows = microvms.map((vm) => [
    vm.microvmId,
    vm.state,
    size(vm),
    size(vm.overlay),
    size(vm.suspended),
    size(vm.checkpoints),
    `${vm.imageArn.slice(vm.imageArn.lastIndexOf(':') + 1)} ${vm.imageVersion}`,
  ]);
  if (rows.length === 0) return '';
  return table(['MICROVM', 'STATE', 'ON DISK', 'DISK', 'MEMORY', 'CHECKPOINTS', 'IMAGE'], rows);
}

function restOf({ builds = [], imports = [], caches = [], logs = [], buckets = [], others = [] }: DiskUse): string {
  const named = (what: string, items: readonly Named[]) => items.map((item) => [what, item.name, size(item)]);
  const rows = [
    ...named('build', builds),
    ...named('import', imports),
    ...named('build cache', caches),
    ...named('logs', logs),
    ...named('objects', buckets),
    ...named('other', others),
  ];
  return rows.length === 0 ? '' : table(['WHAT', 'NAME', 'ON DISK'], rows);
}

function unownedOf({ unowned = [] }: DiskUse): string {
  if (unowned.length === 0) return '';
  const rows = unowned.map((item) => [size(item), item.path, item.why]);
  return `${table(['ON DISK', 'NOBODY OWNS', 'WHY'], rows)}\nTake it away: rekindle images gc`;
}

export interface GarbageOptions extends CommonOptions {
  readonly dryRun?: boolean;
  readonly keep?: string;
  readonly olderThan?: string;
}

interface Garbage {
  readonly dryRun: boolean;
  readonly files: readonly (Space & { readonly path: string; readonly why: string })[];
  readonly versions: readonly GarbageVersion[];
  readonly left: readonly GarbageVersion[];
  readonly total: Space;
}

interface GarbageVersion extends Space {
  readonly imageArn: string;
  readonly imageVersion: string;
  readonly why: string;
}

export async function collectGarbage(options: GarbageOptions, env: Environment): Promise<void> {
  const body = {
    dryRun: options.dryRun === true,
    ...whole(options.keep, 'keep', '--keep'),
    ...whole(options.olderThan, 'olderThanDays', '--older-than'),
  };
  const target = findTarget(options, env);
  const terminal = createTerminal({ json: options.json === true });
  const found = (await callExtension(target, 'POST', '/rekindle/v1/images/gc', JSON.stringify(body))) as Garbage;
  terminal.json(found);
  if (!terminal.isJson) sayGarbage(found, terminal);
}

function sayGarbage({ dryRun, files, versions, left, total }: Garbage, terminal: Terminal): void {
  const nameOf = ({ imageArn, imageVersion }: GarbageVersion) =>
    `${imageArn.slice(imageArn.lastIndexOf(':') + 1)} ${imageVersion}`;
  for (const item of files) terminal.say(`${size(item).padStart(8)}  ${item.path}: ${item.why}`);
  for (const item of versions) terminal.say(`${size(item).padStart(8)}  ${nameOf(item)}: ${item.why}`);
  for (const item of left) terminal.note(`${nameOf(item)} stays: ${item.why}`);
  const sum = `${megabytes(total.bytes)} ${dryRun ? 'would be freed (--dry-run)' : 'freed'}`;
  terminal.say(files.length + versions.length === 0 ? 'Nothing to take away.' : sum);
}

function whole(value: string | undefined, member: string, flag: string): Readonly<Record<string, number>> {
  if (value === undefined) return {};
  if (!/^\d{1,5}$/.test(value)) throw new CliError(`${flag} takes a whole number, not "${value}".`, EXIT.usage);
  return { [member]: Number(value) };
}

function size({ bytes }: Space): string {
  return bytes === 0 ? '-' : megabytes(bytes);
}
