/** `rekindle connectors …`: network connectors of the account, and the domains they are narrowed to. */
import { randomUUID } from 'node:crypto';
import type { Environment } from '../../config.ts';
import { sleep } from '../../lib/index.ts';
import { callExtension } from '../clients.ts';
import { CliError, EXIT } from '../exit.ts';
import type { CommonOptions } from '../session.ts';
import { findTarget, type Target } from '../target.ts';
import { createTerminal, table } from '../terminal.ts';

const ROOT = '/2026-04-04/network-connectors';
/** Built into every server: leads nowhere. */
const NOWHERE = 'subnet-00000000';
const POLL_MS = 100;
const WAIT_MS = 60_000;

interface Connector {
  readonly Arn: string;
  readonly Id: string;
  readonly Name: string;
  readonly State: string;
  readonly StateReason?: string;
  readonly LastModified?: string;
}

interface DomainList {
  readonly Arn: string;
  readonly Name: string;
  readonly domains:
    | readonly { readonly name: string; readonly ports: readonly (number | string)[]; readonly content: string }[]
    | null;
}

export interface CreateOptions extends CommonOptions {
  readonly subnet?: readonly string[];
  readonly securityGroup?: readonly string[];
  readonly role?: string;
  readonly wait?: boolean;
}

export interface DomainsOptions extends CommonOptions {
  readonly ports?: string;
  readonly opaque?: boolean;
}

/** The ARN of a connector given by ARN, by id or name, or by the managed name. @throws CliError */
export async function connectorArnOf(target: Target, connector: string): Promise<string> {
  if (connector.startsWith('arn:')) return connector;
  if (/^[A-Z]+_EGRESS$/.test(connector)) return managedConnectorArn(target, connector);
  return (await read(target, connector)).Arn;
}

/** Of one that every account has. */
export function managedConnectorArn(target: Target, name: string): string {
  return `arn:aws:lambda:${target.region}:aws:network-connector:aws-network-connector:${name}`;
}

export async function createConnector(name: string, options: CreateOptions, env: Environment): Promise<void> {
  const target = findTarget(options, env);
  const terminal = createTerminal({ json: options.json === true });
  const { subnet = [NOWHERE], securityGroup = [] } = options;
  const created = (await callExtension(
    target,
    'POST',
    ROOT,
    JSON.stringify({
      Name: name,
      Configuration: {
        VpcEgressConfiguration: {
          SubnetIds: subnet,
          SecurityGroupIds: securityGroup,
          NetworkProtocol: 'IPv4',
          AssociatedComputeResourceTypes: ['MicroVm'],
        },
      },
      OperatorRole: options.role ?? `arn:aws:iam::${target.account}:role/rekindle-connector`,
      ClientToken: randomUUID(),
    }),
  )) as Connector;
  const settled = options.wait === false ? created : await settle(target, created);
  terminal.json(settled);
  if (settled.State === 'FAILED') throw new CliError(`${name} is FAILED: ${settled.StateReason ?? 'no reason given'}`);
  terminal.say(settled.Arn);
}

export async function listConnectors(options: CommonOptions, env: Environment): Promise<void> {
  const target = findTarget(options, env);
  const terminal = createTerminal({ json: options.json === true });
  const found: Connector[] = [];
  let marker: string | undefined;
  do {
    const query = marker === undefined ? '' : `?Marker=${encodeURIComponent(marker)}`;
    const page = (await callExtension(target, 'GET', `${ROOT}${query}`)) as {
      readonly NetworkConnectors: readonly Connector[];
      readonly NextMarker?: string;
    };
    found.push(...page.NetworkConnectors);
    marker = page.NextMarker;
  } while (marker !== undefined);
  terminal.json(found);
  const rows = found.map(({ Name, State, LastModified = '', Arn }) => [Name, State, LastModified, Arn]);
  terminal.say(
    rows.length === 0
      ? 'No network connectors. Create one: rekindle connectors create <name>'
      : table(['NAME', 'STATE', 'MODIFIED', 'ARN'], rows),
  );
}

export async function showConnector(name: string, options: CommonOptions, env: Environment): Promise<void> {
  const target = findTarget(options, env);
  const terminal = createTerminal({ json: options.json === true });
  const connector = await read(target, name);
  const { domains } = await domainsOf(target, 'GET', name);
  // A document either way: people can read this one too.
  await terminal.raw(`${JSON.stringify({ ...connector, domains }, null, 2)}\n`);
}

export async function removeConnector(name: string, options: CommonOptions, env: Environment): Promise<void> {
  const target = findTarget(options, env);
  const terminal = createTerminal({ json: options.json === true });
  const { State } = (await callExtension(target, 'DELETE', pathOf(name))) as Connector;
  terminal.json({ connector: name, state: State });
  terminal.say(`${name} is ${State}`);
}

/** `action`: show, set (the names replace those there are), clear. */
export async function connectorDomains(
  name: string,
  action: string,
  names: readonly string[],
  options: DomainsOptions,
  env: Environment,
): Promise<void> {
  if ((action === 'set') !== names.length > 0) {
    throw new CliError('Say "set" with one or more names, or "show" or "clear" without any.', EXIT.usage);
  }
  const target = findTarget(options, env);
  const terminal = createTerminal({ json: options.json === true });
  const list = await change(target, name, action, names, options);
  terminal.json(list);
  if (list.domains === null) return terminal.say(`${name} has no domain list: it leads wherever its subnets lead.`);
  const rows = list.domains.map((domain) => [domain.name, domain.ports.join(','), domain.content]);
  terminal.say(table(['NAME', 'PORTS', 'CONTENT'], rows));
}

function change(
  target: Target,
  name: string,
  action: string,
  names: readonly string[],
  { ports, opaque }: DomainsOptions,
): Promise<DomainList> {
  switch (action) {
    case 'show':
      return domainsOf(target, 'GET', name);
    case 'clear':
      return domainsOf(target, 'DELETE', name);
    case 'set': {
      const each = {
        ...(ports !== undefined && { ports: ports.split(',').map((range) => range.trim()) }),
        ...(opaque === true && { content: 'opaque' }),
      };
      const domains = names.map((domain) => ({ name: domain, ...each }));
      return domainsOf(target, 'PUT', name, JSON.stringify({ domains }));
    }
    default:
      throw new CliError(`The action is show, set or clear, not "${action}".`, EXIT.usage);
  }
}

async function settle(target: Target, { Id }: Connector): Promise<Connector> {
  const startedAt = performance.now();
  for (;;) {
    const connector = await read(target, Id);
    if (connector.State !== 'PENDING') return connector;
    if (performance.now() - startedAt > WAIT_MS) throw new CliError(`${connector.Name} is still PENDING.`);
    await sleep(POLL_MS);
  }
}

async function read(target: Target, identifier: string): Promise<Connector> {
  return (await callExtension(target, 'GET', pathOf(identifier))) as Connector;
}

async function domainsOf(target: Target, method: string, identifier: string, body?: string): Promise<DomainList> {
  const path = `/rekindle/v1/network-connectors/${encodeURIComponent(identifier)}/domains`;
  return (await callExtension(target, method, path, body)) as DomainList;
}

function pathOf(identifier: string): string {
  return `${ROOT}/${encodeURIComponent(identifier)}`;
}
