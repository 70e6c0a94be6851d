/**
 * What each operation demands of its caller's policies: the operation itself on its resource, then the network connectors
 * and roles it hands on and the tags it sets.
 *
 * Invariant: every demand is met before the operation has any effect, and none is asked of the root, so that its requests
 * cost no look-ups. Sources: the guide's security chapter, recorded refusals (connectors: egress before ingress).
 */
import { managedConnectorArn } from '../connectors/index.ts';
import type { Context, Identity } from '../identity/index.ts';
import { DomainError } from '../lib/index.ts';
import { type Caller, type Demand, demand } from './access.ts';
import type { AnyBehaviour, Rooms } from './operation.ts';

export interface Authority extends Rooms {
  readonly identity: Identity;
  readonly region: string;
}

type Input = Readonly<Record<string, unknown>>;

/** What an operation demands besides itself, by what its input says. GUESS: authorisation-order */
const MORE_DEMANDS: Readonly<Record<string, (input: Input, authority: Authority) => Promise<Demand[]> | Demand[]>> = {
  RunMicrovm: async (input, authority) => [
    ...connectors(listOf(input, 'egressNetworkConnectors') ?? (await implicitEgress(input, authority))),
    ...connectors(listOf(input, 'ingressNetworkConnectors') ?? [implicit(authority, 'HTTP_INGRESS')]),
    ...passRole(input.executionRoleArn),
  ],
  CreateMicrovmImage: (input, authority) => [
    ...buildDemands(input, authority),
    ...tagging(input, imageArn(input, authority)),
  ],
  UpdateMicrovmImage: (input, authority) => buildDemands(input, authority),
  CreateNetworkConnector: (input, { region, identity }) => [
    ...passRole(input.OperatorRole),
    // Its id is not known yet.
    ...tagging(input, `arn:aws:lambda:${region}:${identity.account}:network-connector:*`),
  ],
  UpdateNetworkConnector: (input) => passRole(input.OperatorRole),
};

/**
 * Checks everything `operation` demands.
 * @throws DomainError DENIED in IAM's words; what finding the resource throws (INVALID, NOT_FOUND) when that gives nothing away
 */
export async function authorise(
  operation: { readonly name: string; readonly behaviour: AnyBehaviour; readonly input: unknown },
  caller: Caller,
  authority: Authority,
): Promise<void> {
  if (caller.principal.kind === 'root') return;
  const { name } = operation;
  const input = { ...(operation.input as Input) };
  const action = `lambda:${name}`;
  const check = (wanted: Demand) => demand(authority.identity, caller, wanted);
  let resource: string;
  try {
    resource = await resourceOf(operation, authority);
    if (resource !== '*' && !resource.startsWith('arn:')) await refuseName(name, resource, authority);
  } catch (error) {
    // Only who may do this to something is told that there is no such thing. GUESS: unknown-resource-access
    if (error instanceof DomainError && error.code === 'NOT_FOUND') check({ action, resource: undefined });
    throw error;
  }
  const context = { ...requestTags(input), ...(await resourceTags(resource, authority)) };
  check({ action, resource, context });
  for (const wanted of (await MORE_DEMANDS[name]?.(input, authority)) ?? []) check(wanted);
}

/** The ARN that an operation is authorised on, or `*`. */
export async function resourceOf(
  { behaviour, input }: { readonly behaviour: AnyBehaviour; readonly input: unknown },
  rooms: Rooms,
): Promise<string> {
  return (await behaviour.resource?.(input, rooms)) ?? '*';
}

/** Bare names are no ARNs: refused in the room's words before policies are asked, as recorded; tells nothing about images. */
async function refuseName(operation: string, name: string, { images }: Authority): Promise<void> {
  await (operation === 'RunMicrovm' ? images.resolve(name) : images.get(name));
}

function buildDemands(input: Input, authority: Authority): Demand[] {
  const egress = listOf(input, 'egressNetworkConnectors') ?? [implicit(authority, 'INTERNET_EGRESS')];
  return [...connectors(egress), ...passRole(input.buildRoleArn)];
}

function connectors(arns: readonly string[]): Demand[] {
  return arns.map((resource) => ({ action: 'lambda:PassNetworkConnector', resource }));
}

function passRole(role: unknown): Demand[] {
  if (typeof role !== 'string') return [];
  return [{ action: 'iam:PassRole', resource: role, context: { 'iam:PassedToService': 'lambda.amazonaws.com' } }];
}

/** On the thing to come. GUESS: tag-on-create */
function tagging(input: Input, resource: string): Demand[] {
  const context = requestTags(input);
  return Object.keys(context).length === 0 ? [] : [{ action: 'lambda:TagResource', resource, context }];
}

function imageArn(input: Input, { region, identity }: Authority): string {
  return `arn:aws:lambda:${region}:${identity.account}:microvm-image:${String(input.name)}`;
}

function implicit({ region }: Authority, name: 'INTERNET_EGRESS' | 'HTTP_INGRESS'): string {
  return managedConnectorArn(region, name);
}

/** The version's own list; a version that can't be had is the operation's to refuse. */
async function implicitEgress(input: Input, authority: Authority): Promise<readonly string[]> {
  const { imageIdentifier, imageVersion } = input;
  try {
    const version = typeof imageVersion === 'string' ? imageVersion : undefined;
    return (await authority.images.resolve(String(imageIdentifier), version)).egressNetworkConnectors;
  } catch (error) {
    if (!(error instanceof DomainError)) throw error;
    return [implicit(authority, 'INTERNET_EGRESS')];
  }
}

/** An empty list is as good as none, as for the operations. */
function listOf(input: Input, member: string): readonly string[] | undefined {
  const found = input[member];
  return Array.isArray(found) && found.length > 0 ? (found as string[]) : undefined;
}

function requestTags(input: Input): Context {
  const tags = input.tags ?? input.Tags;
  if (typeof tags === 'object' && tags !== null) {
    const entries = Object.entries(tags as Record<string, string>);
    if (entries.length === 0) return {};
    const values = entries.map(([key, value]) => [`aws:RequestTag/${key}`, value]);
    return { ...Object.fromEntries(values), 'aws:TagKeys': entries.map(([key]) => key) };
  }
  const keys = listOf(input, 'TagKeys');
  return keys === undefined ? {} : { 'aws:TagKeys': keys };
}

async function resourceTags(resource: string, { images, connectors }: Authority): Promise<Context> {
  const room = [
    { kind: ':microvm-image:', room: images },
    { kind: ':network-connector:', room: connectors },
  ].find(({ kind }) => resource.includes(kind))?.room;
  if (room === undefined) return {};
  try {
    const tags = await room.tags(resource);
    return Object.fromEntries(Object.entries(tags).map(([key, value]) => [`aws:ResourceTag/${key}`, value]));
  } catch (error) {
    if (error instanceof DomainError) return {};
    throw error;
  }
}
