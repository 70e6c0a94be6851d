/** Ports as operators and callers write them. */
import type { PortRange } from '../engine/index.ts';

export const EVERY_PORT: PortRange = [1, 65_535];
export const MAX_PORT_RANGES = 64;
export const PORTS_FORM = 'a port from 1 to 65535 or a range such as "8000-8100"';

/** `443`, `"443"` or `"8000-8100"`; undefined for anything else. */
export function parsePorts(value: unknown): PortRange | undefined {
  const text = typeof value === 'number' ? String(value) : value;
  const match = typeof text === 'string' ? /^([1-9]\d{0,4})(?:-([1-9]\d{0,4}))?$/.exec(text) : null;
  if (match === null) return undefined;
  const from = Number(match[1]);
  const to = Number(match[2] ?? match[1]);
  return to > 65_535 || to < from ? undefined : [from, to];
}

/** `443` or `8000-8100`. */
export function formatPorts([from, to]: PortRange): number | string {
  return from === to ? from : `${from}-${to}`;
}

/** Every port of `wanted` is in one of `given`. Ranges of `given` are not joined: what spans two of them is not covered. */
export function covers(given: readonly PortRange[], wanted: readonly PortRange[]): boolean {
  return wanted.every(([from, to]) => given.some(([least, most]) => least <= from && to <= most));
}
