/**
 * A version's provenance as tools of the field read it: an in-toto statement (v1) with a SLSA provenance predicate (v1), and its
 * packages as an SPDX 2.3 document. Not signed. The same version and snapshot always give the same bytes.
 */
import { createHash } from 'node:crypto';
import type { InstalledPackage, SnapshotFacts } from '../../engine/index.ts';
import type { VersionRecord } from '../lifecycle.ts';
import type { ProvenanceFacts } from './facts.ts';

/** Names of digests that are no SHA-256 of a file's bytes; docs/PROVENANCE.md says what they are of. */
const TREE = 'rekindleTree1';
const CHUNKS = 'rekindleChunks1';
/** Says what the members of `externalParameters` mean. */
const BUILD_TYPE = 'urn:rekindle:build:dockerfile:1';

/** https://github.com/in-toto/attestation/blob/main/spec/v1/resource_descriptor.md */
interface Descriptor {
  readonly name?: string;
  readonly uri?: string;
  readonly digest?: Readonly<Record<string, string>>;
  readonly mediaType?: string;
  /** In base64. */
  readonly content?: string;
  readonly annotations?: Readonly<Record<string, unknown>>;
}

export interface Statement {
  readonly _type: 'https://in-toto.io/Statement/v1';
  readonly subject: readonly Descriptor[];
  readonly predicateType: 'https://slsa.dev/provenance/v1';
  readonly predicate: object;
}

type Version = Pick<VersionRecord, 'imageArn' | 'imageName' | 'version'>;

/** @param number of the snapshot that is launched now */
export function statementOf(
  version: Version,
  facts: ProvenanceFacts,
  { snapshot, number }: { snapshot: SnapshotFacts; number: number },
): Statement {
  const { build, steps, made } = facts;
  const { origin } = build;
  const packages = JSON.stringify(spdxOf(version, facts));
  return {
    _type: 'https://in-toto.io/Statement/v1',
    subject: subjectsOf(origin.rootfs, snapshot, number),
    predicateType: 'https://slsa.dev/provenance/v1',
    predicate: {
      buildDefinition: {
        buildType: BUILD_TYPE,
        externalParameters: {
          artifact: build.artifact.uri,
          dockerfile: 'Dockerfile',
          baseImage: build.baseImageArn,
          image: version.imageArn,
          imageVersion: version.version,
        },
        internalParameters: { steps, isReused: build.isReused },
        resolvedDependencies: [
          { name: 'artifact', uri: build.artifact.uri, digest: { sha256: build.artifact.sha256 } },
          {
            name: 'Dockerfile',
            digest: { sha256: build.dockerfile.sha256 },
            ...(build.dockerfile.text !== null && {
              mediaType: 'text/plain',
              content: Buffer.from(build.dockerfile.text).toString('base64'),
            }),
          },
          ...origin.dependencies,
        ],
      },
      runDetails: {
        builder: {
          id: `urn:rekindle:builder:${build.builder.runtime}`,
          version: { buildkit: origin.buildkit, kernel: build.builder.kernel, vmm: build.builder.vmm },
        },
        metadata: {
          invocationId: build.buildId,
          startedOn: instant(build.startedAt),
          finishedOn: instant(build.finishedAt),
        },
        byproducts: [
          {
            name: 'build.log',
            digest: { sha256: made.log.sha256 },
            mediaType: 'text/plain',
            annotations: { bytes: made.log.bytes, buildId: made.buildId },
          },
          {
            name: 'packages.spdx.json',
            digest: { sha256: sha256(packages) },
            mediaType: 'application/spdx+json',
            annotations: { packages: origin.packages.length, unread: origin.unread },
          },
        ],
      },
    },
  };
}

function subjectsOf(rootfs: string, { parts, manifest, ...snapshot }: SnapshotFacts, number: number): Descriptor[] {
  const { vmm, kernel, guest, link, runtime } = snapshot;
  const made = {
    snapshot: number,
    vmm: `${vmm.name} ${vmm.version} (${vmm.accelerator})`,
    kernel,
    runtime,
    agent: { linkGeneration: link, ...(guest && { initramfsSha256: guest.initramfs }) },
    ...(guest && { kernelSha256: guest.kernel }),
  };
  return [
    { name: 'rootfs', digest: { [TREE]: rootfs } },
    ...(['disk', 'ram', 'state', 'changes'] as const).map((name) => ({
      name,
      digest: { [CHUNKS]: parts[name].sha256 },
      annotations: { bytes: parts[name].bytes },
    })),
    { name: 'manifest.json', digest: { sha256: manifest }, annotations: made },
  ];
}

/** https://spdx.github.io/spdx-spec/v2.3 */
export function spdxOf({ imageName, version }: Version, { build, disk }: ProvenanceFacts): object {
  const { packages } = build.origin;
  const ids = packages.map((_, index) => `SPDXRef-Package-${index + 1}`);
  return {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: 'SPDXRef-DOCUMENT',
    name: `${imageName}-${version}`,
    documentNamespace: `urn:rekindle:packages:${disk}`,
    creationInfo: { created: instant(build.finishedAt), creators: ['Tool: rekindle'] },
    documentDescribes: ids,
    packages: packages.map((one, index) => ({
      SPDXID: ids[index],
      name: one.name,
      versionInfo: one.version,
      downloadLocation: 'NOASSERTION',
      filesAnalyzed: false,
      externalRefs: [
        { referenceCategory: 'PACKAGE-MANAGER', referenceType: 'purl', referenceLocator: packageUrl(one) },
      ],
    })),
  };
}

/**
 * Without a vendor: the databases do not name the one that is meant. Of RPMs the epoch is no part of the version:
 * https://github.com/package-url/purl-spec/blob/main/types/rpm-definition.json
 */
function packageUrl({ type, name, version, arch }: InstalledPackage): string {
  const [, epoch, rest = version] = (type === 'rpm' && /^(\d+):(.+)$/.exec(version)) || [];
  const [part, at, cpu] = [name, rest, arch].map(encodeURIComponent);
  return `pkg:${type}/${part}@${at}?arch=${cpu}${epoch === undefined ? '' : `&epoch=${epoch}`}`;
}

/** As RFC 3339 has it, in seconds. */
function instant(at: number): string {
  return new Date(at).toISOString().replace(/\.\d+Z$/, 'Z');
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
