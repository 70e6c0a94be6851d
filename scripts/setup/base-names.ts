/**
 * What a FROM may call the managed bases by. `exact` names promise what the base is: Debian trixie, its Python, the
 * Node of this version. `near` ones promise something like it, and mean the base only where the operator said `offline`
 * (docs/decisions/0011-managed-bases.md).
 */
export type BaseKind = 'debian' | 'python' | 'node';

export interface BaseName {
  readonly name: string;
  readonly base: BaseKind;
  readonly isNear: boolean;
}

/** Of the guests' release. */
const PYTHON = '3.13';
const DEBIAN_SUFFIXES = ['', '-slim'];
const VARIANTS = ['', '-slim', '-trixie', '-slim-trixie', '-trixie-slim'];
const NEAR_VARIANTS = [
  '',
  '-slim',
  '-bookworm',
  '-slim-bookworm',
  '-bookworm-slim',
  '-trixie',
  '-slim-trixie',
  '-trixie-slim',
];
const LIBRARIES = ['', 'docker.io/library/', 'public.ecr.aws/docker/library/'];

/** In the order they are shown; the first is the managed image's own. */
export function baseNames(nodeVersion: string): readonly BaseName[] {
  const [major = '', minor = ''] = nodeVersion.split('.');
  const exact = [
    ...named('debian', [
      'public.ecr.aws/lambda/microvms:al2023-minimal',
      'public.ecr.aws/lambda/microvms:al2023',
      ...library('debian', tagged(['trixie', '13', 'stable'], DEBIAN_SUFFIXES)),
      ...library('debian', ['latest']),
    ]),
    ...named(
      'python',
      library('python', [...tagged(['3', PYTHON], VARIANTS), 'slim', 'slim-trixie', 'trixie', 'latest']),
    ),
    ...named(
      'node',
      library('node', [
        ...tagged([major, `${major}.${minor}`, nodeVersion, 'current'], VARIANTS),
        'slim',
        'trixie',
        'trixie-slim',
        'latest',
      ]),
    ),
  ];
  const known = new Set(exact.map(({ name }) => name));
  const near = [
    ...named('debian', [
      ...library('debian', tagged(['bookworm', '12', 'bullseye', '11', 'oldstable'], DEBIAN_SUFFIXES)),
      ...['2023', '2023-minimal', 'latest'].flatMap((tag) => [
        ...library('amazonlinux', [tag]),
        `public.ecr.aws/amazonlinux/amazonlinux:${tag}`,
      ]),
    ]),
    ...named('python', library('python', tagged(['3.9', '3.10', '3.11', '3.12', '3.13', '3.14', '3'], NEAR_VARIANTS))),
    ...named('node', library('node', tagged(['18', '20', '22', '24', '25', major, 'lts'], NEAR_VARIANTS))),
  ].filter(({ name }) => !known.has(name));
  return [...exact.map((name) => ({ ...name, isNear: false })), ...near.map((name) => ({ ...name, isNear: true }))];
}

function named(base: BaseKind, names: readonly string[]) {
  return names.map((name) => ({ name, base }));
}

function tagged(versions: readonly string[], suffixes: readonly string[]): string[] {
  return versions.flatMap((version) => suffixes.map((suffix) => `${version}${suffix}`));
}

function library(repository: string, tags: readonly string[]): string[] {
  return LIBRARIES.flatMap((prefix) => tags.map((tag) => `${prefix}${repository}:${tag}`));
}
