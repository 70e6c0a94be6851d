/**
 * Our extension: the names a connector leads to, and nothing else then. AWS's connectors know addresses only, so these
 * never appear in AWS's shapes.
 */
import { isIP } from 'node:net';
import { domainToASCII } from 'node:url';
import type { PortRange } from '../engine/index.ts';
import { DomainError } from '../lib/index.ts';
import { formatPorts, MAX_PORT_RANGES, PORTS_FORM, parsePorts } from './ports.ts';

/** One line of the list, as it is kept and enforced. */
export interface AllowedDomain {
  /** Lower case; with `*.` in front every name below it. */
  readonly name: string;
  readonly ports: readonly PortRange[];
  /** `tls-or-http` must carry the name; `opaque` is not looked into. */
  readonly content: 'tls-or-http' | 'opaque';
}

/** As it goes over the wire of the extension. */
export interface DomainView {
  readonly name: string;
  readonly ports: readonly (number | string)[];
  readonly content: AllowedDomain['content'];
}

export const MAX_DOMAINS = 200;
/** Source of the common ports: HTTP and HTTPS. */
const WEB_PORTS: readonly PortRange[] = [
  [80, 80],
  [443, 443],
];
const LABEL = /^(?!-)[a-z0-9_-]{1,63}(?<!-)$/;

export function viewOfDomains(domains: readonly AllowedDomain[]): readonly DomainView[] {
  return domains.map(({ name, ports, content }) => ({ name, ports: ports.map(formatPorts), content }));
}

/**
 * Reads `[{"name", "ports"?, "content"?}, …]`; what is left out is 80 and 443, and `tls-or-http`. A name that stands twice
 * keeps both lines.
 * @throws DomainError INVALID
 */
export function parseDomains(value: unknown): readonly AllowedDomain[] {
  if (!Array.isArray(value)) throw refused('domains', 'must be a list of objects with a "name"');
  if (value.length === 0 || value.length > MAX_DOMAINS) {
    throw refused('domains', `must hold 1 to ${MAX_DOMAINS} names; DELETE takes the list away`);
  }
  return value.map((one: unknown, i) => domainOf(one, `domains[${i}]`));
}

function domainOf(value: unknown, at: string): AllowedDomain {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw refused(at, 'must be an object');
  const { name, ports, content = 'tls-or-http', ...rest } = value as Readonly<Record<string, unknown>>;
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) throw refused(`${at}.${unknown}`, 'is unknown; known are: name, ports, content');
  if (content !== 'tls-or-http' && content !== 'opaque')
    throw refused(`${at}.content`, 'must be tls-or-http or opaque');
  return { name: nameOf(name, `${at}.name`), ports: portsOf(ports, `${at}.ports`), content };
}

function nameOf(value: unknown, at: string): string {
  if (typeof value !== 'string' || value.length > 512) throw refused(at, 'must be a domain name');
  const isWild = value.startsWith('*.');
  const bare = (isWild ? value.slice(2) : value).replace(/\.$/, '');
  // The converter reads URLs' hosts, and would drop what stands behind one.
  const ascii = /[\p{Cc}\s/?#@:\\%]/u.test(bare) ? '' : domainToASCII(bare);
  const labels = ascii.split('.');
  // What ends in a number is an address to somebody, also in the short forms.
  if (isIP(bare) !== 0 || /^(\d+|0x[0-9a-f]*)$/.test(labels.at(-1) ?? '')) {
    throw refused(at, `is "${bare}", an address; addresses belong into a subnet of the networks file`);
  }
  if (ascii === '' || ascii.length > 253 || !labels.every((label) => LABEL.test(label))) {
    throw refused(at, `is ${JSON.stringify(value.slice(0, 100))} but must be a domain name, alone or behind "*."`);
  }
  if (isWild && labels.length < 2)
    throw refused(at, `is "${value}", a whole top-level domain; name at least two labels`);
  return isWild ? `*.${ascii}` : ascii;
}

function portsOf(value: unknown, at: string): readonly PortRange[] {
  if (value === undefined) return WEB_PORTS;
  if (!Array.isArray(value) || value.length === 0 || value.length > MAX_PORT_RANGES) {
    throw refused(at, `must be a list of 1 to ${MAX_PORT_RANGES} ports`);
  }
  return value.map((one: unknown, i) => {
    const range = parsePorts(one);
    if (range === undefined) throw refused(`${at}[${i}]`, `must be ${PORTS_FORM}`);
    return range;
  });
}

function refused(at: string, sentence: string): DomainError {
  return new DomainError('INVALID', `${at} ${sentence}.`);
}
