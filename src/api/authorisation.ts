/**
 * What each operation demands of its caller's policies: the operation itself on its resource, then the network connectors
 * and roles it hands on and the tags it sets.
 *
 * Invariant: every demand is met before the operation has any effect, and none is asked of the root, so that its requests
 * cost no look-ups. Sources: the guide's security chapter, recorded refusals (connectors: egress before ingress).
 */
import { managedConnectorArn, resolveEgress } from '../connectors/index.ts';
import type { Context, Identity } from '../identity/index.ts';
import { DomainError } from '../lib/index.ts';
import { type Caller, type Demand, demand } from './access.ts';
import type { AnyBehaviour, Rooms } from './operation.ts';

export interface Authority extends Rooms {
  readonly identity: Identity;
  readonly region: string;
}

type Input = Readonly<Record<string, unknown>>;

type OwnDemand = Demand & { readonly resource: string };

/** What an operation demands besides itself, by what its input says. GUESS: authorisation-order */
const MORE_DEMANDS: Readonly<
  Record<string, (input: Input, authority: Authority) => Promise<OwnDemand[]> | OwnDemand[]>
> = {
  RunMicrovm: async (input, authority) => [
    ...passConnectors(listOf(input, 'egressNetworkConnectors') ?? (await imageEgress(input, authority))),
    ...passConnectors(
      listOf(input, 'ingressNetworkConnectors') ?? [managedConnectorArn(authority.region, 'HTTP_INGRESS')],
    ),
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
  const check = async (wanted: OwnDemand) => {
    const context = { ...wanted.context, ...(await resourceTags(wanted.resource, authority)) };
    demand(authority.identity, caller, { ...wanted, context });
  };
  let resource: string;
  try {
    resource = await resourceOf(operation, authority);
    if (resource !== '*' && !resource.startsWith('arn:')) await refuseName(name, resource, authority);
  } catch (error) {
    // Only who may do this to something is told that there is no such thing. GUESS: unknown-resource-access
    if (error instanceof DomainError && error.code === 'NOT_FOUND') {
      demand(authority.identity, caller, { action, resource: undefined });
    }
    throw error;
  }
  await check({ action, resource, context: requestTags(input) });
  for (const wanted of (await MORE_DEMANDS[name]?.(input, authority)) ?? []) await check(wanted);
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

function buildDemands(input: Input, authority: Authority): OwnDemand[] {
  const egress = listOf(input, 'egressNetworkConnectors') ?? implicitEgress(authority);
  return [...passConnectors(egress), ...passRole(input.buildRoleArn)];
}

function passConnectors(arns: readonly string[]): OwnDemand[] {
  return arns.map((resource) => ({ action: 'lambda:PassNetworkConnector', resource }));
}

function passRole(role: unknown): OwnDemand[] {
  if (typeof role !== 'string') return [];
  return [{ action: 'iam:PassRole', resource: role, context: { 'iam:PassedToService': 'lambda.amazonaws.com' } }];
}

/** On the thing to come. GUESS: tag-on-create */
function tagging(input: Input, resource: string): OwnDemand[] {
  const context = requestTags(input);
  return Object.keys(context).length === 0 ? [] : [{ action: 'lambda:TagResource', resource, context }];
}

function imageArn(input: Input, { region, identity }: Authority): string {
  return `arn:aws:lambda:${region}:${identity.account}:microvm-image:${String(input.name)}`;
}

/** The version's own list; a version that can't be had is the operation's to refuse. */
async function imageEgress(input: Input, authority: Authority): Promise<readonly string[]> {
  const { imageIdentifier, imageVersion } = input;
  try {
    const version = typeof imageVersion === 'string' ? imageVersion : undefined;
    return implicitEgress(
      authority,
      (await authority.images.resolve(String(imageIdentifier), version)).egressNetworkConnectors,
    );
  } catch (error) {
    if (!(error instanceof DomainError)) throw error;
    return implicitEgress(authority);
  }
}

/** What a list without connectors comes to on this server. */
function implicitEgress({ region, connectors }: Authority, ofImage?: readonly string[]): readonly string[] {
  return resolveEgress(region, undefined, ofImage, connectors.egressDefaults());
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

/** What policies may ask of a resource. Those of images and customers' connectors; nothing else has any. */
export async function resourceTags(resource: string, { images, connectors }: Rooms): Promise<Context> {
  const kind = resource.split(':')[5];
  const room = kind === 'microvm-image' ? images : kind === 'network-connector' ? connectors : undefined;
  if (room === undefined) return {};
  try {
    const tags = Object.entries(await room.tags(resource));
    return Object.fromEntries(tags.map(([key, value]) => [`aws:ResourceTag/${key}`, value]));
  } catch (error) {
    if (error instanceof DomainError) return {};
    throw error;
  }
}
