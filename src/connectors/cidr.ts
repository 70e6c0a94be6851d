/** IPv4 ranges: reading, writing, what two have in common, and which part of one is public. */

/** `first` is the lowest address as a number, aligned to `bits`. */
export interface Cidr {
  readonly first: number;
  readonly bits: number;
}

const SPACE = 2 ** 32;

/** `a.b.c.d/n`, in plain decimal and without host bits; undefined for anything else. */
export function parseCidr(text: string): Cidr | undefined {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\/(\d{1,2})$/.exec(text);
  if (match === null) return undefined;
  const numbers = match.slice(1).map(Number);
  const [bits = 33] = numbers.slice(4);
  if (match.slice(1).some((digits) => digits.length > 1 && digits.startsWith('0'))) return undefined;
  if (bits > 32 || numbers.slice(0, 4).some((byte) => byte > 255)) return undefined;
  const first = numbers.slice(0, 4).reduce((address, byte) => address * 256 + byte, 0);
  return first % sizeOf(bits) === 0 ? { first, bits } : undefined;
}

export function formatCidr({ first, bits }: Cidr): string {
  const bytes = [24, 16, 8, 0].map((shift) => Math.floor(first / 2 ** shift) % 256);
  return `${bytes.join('.')}/${bits}`;
}

/** One of two ranges that meet always lies in the other. */
export function intersect(a: Cidr, b: Cidr): Cidr | undefined {
  const [wide, narrow] = a.bits <= b.bits ? [a, b] : [b, a];
  const lies = narrow.first >= wide.first && narrow.first < wide.first + sizeOf(wide.bits);
  return lies ? narrow : undefined;
}

/** The parts of `from` outside `what`, in order. */
export function subtract(from: Cidr, what: Cidr): readonly Cidr[] {
  if (intersect(from, what) === undefined) return [from];
  if (what.bits <= from.bits) return [];
  const bits = from.bits + 1;
  const halves = [
    { first: from.first, bits },
    { first: from.first + sizeOf(bits), bits },
  ];
  return halves.flatMap((half) => subtract(half, what));
}

/** What of `range` belongs to the internet. */
export function publicPartsOf(range: Cidr): readonly Cidr[] {
  return NOT_PUBLIC.reduce<readonly Cidr[]>(
    (left, special) => left.flatMap((part) => subtract(part, special)),
    [range],
  );
}

/** Where no policy leads, whoever named it. A range around a metadata service may be named; the gateway carves it out. */
export function leadsNowhere(range: Cidr): boolean {
  if (METADATA.some(({ first }) => range.bits === 32 && range.first === first)) return true;
  return NEVER.some((special) => intersect(range, special) !== undefined);
}

/** This host, the link with the metadata service, the guests' own range, groups. The gateway refuses the same. */
const NEVER: readonly Cidr[] = cidrs(
  '0.0.0.0/8',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '192.0.0.0/29',
  '224.0.0.0/4',
  '240.0.0.0/4',
);

/** Those of other clouds, outside link-local. */
const METADATA: readonly Cidr[] = cidrs('168.63.129.16/32', '100.100.100.200/32', '192.0.0.192/32');

/** Source: IANA's registry of special-purpose IPv4 addresses: what it does not call globally reachable, and multicast. */
const NOT_PUBLIC: readonly Cidr[] = [
  ...NEVER,
  ...cidrs(
    '10.0.0.0/8',
    '100.64.0.0/10',
    '172.16.0.0/12',
    '192.0.0.0/24',
    '192.0.2.0/24',
    '192.88.99.0/24',
    '192.168.0.0/16',
    '198.18.0.0/15',
    '198.51.100.0/24',
    '203.0.113.0/24',
  ),
];

function sizeOf(bits: number): number {
  return SPACE / 2 ** bits;
}

function cidrs(...texts: string[]): Cidr[] {
  return texts.map((text) => parseCidr(text)).filter((cidr) => cidr !== undefined);
}
