/**
 * What clients may take of the endpoint, from one setting: `default`, `service` (besides, the connections and requests
 * that the service allows a microVM of each size), or one of them and changes, e.g. `default,connections=20000,requests=50/100`.
 */

export interface RequestRate {
  readonly perSecond: number;
  readonly burst: number;
}

export interface Limits {
  /** Of the request line and all headers of one request together. */
  readonly headerBytes: number;
  /** Header fields of one request. */
  readonly headerCount: number;
  /** A TLS handshake is done by then. */
  readonly handshakeMs: number;
  /** A request's headers are there by then, a slow drip included. */
  readonly headersMs: number;
  /** A connection between two requests is closed after this long. */
  readonly keepAliveMs: number;
  /** A connection on which no byte moves either way. GUESS: endpoint-idle-timeout */
  readonly silentMs: number;
  /** Of all microVMs together, handshakes under way included. */
  readonly connections: number;
  /** `ofSize`: as many as the service allows a microVM of that size. */
  readonly connectionsPerMicrovm: number | 'ofSize';
  /** Requests admitted to one microVM; WebSocket messages and what streams are not counted. */
  readonly requests: RequestRate | 'off' | 'ofSize';
}

export const DEFAULT_LIMITS: Limits = Object.freeze({
  headerBytes: 65_536,
  headerCount: 200,
  handshakeMs: 10_000,
  headersMs: 20_000,
  keepAliveMs: 65_000,
  silentMs: 3_600_000,
  connections: 10_000,
  connectionsPerMicrovm: 2000,
  requests: 'off',
});

const SIZE_MIB = 512;
/** Source: the guide's quotas page: 8, 16, 32, 64, 128 for the five sizes. */
const CONNECTIONS_PER_SIZE = 8;
/** Source: as above, 40 for 2,048 MiB and 160 for 8,192; the others are in proportion. GUESS: endpoint-rate-of-size */
const REQUESTS_PER_SIZE = 10;

export function connectionsOf(limits: Limits, memoryMiB: number): number {
  const limit = limits.connectionsPerMicrovm;
  return limit === 'ofSize' ? CONNECTIONS_PER_SIZE * sizesOf(memoryMiB) : limit;
}

export function requestRateOf(limits: Limits, memoryMiB: number): RequestRate | undefined {
  if (limits.requests === 'off') return undefined;
  if (limits.requests !== 'ofSize') return limits.requests;
  const perSecond = REQUESTS_PER_SIZE * sizesOf(memoryMiB);
  return { perSecond, burst: perSecond };
}

function sizesOf(memoryMiB: number): number {
  return Math.max(1, Math.round(memoryMiB / SIZE_MIB));
}

interface Key {
  readonly limit: Exclude<keyof Limits, 'requests'>;
  readonly unit: number;
  readonly least: number;
  readonly most: number;
}

/** What one may write, in units that people use. */
export const KEYS = {
  headerBytes: { limit: 'headerBytes', unit: 1, least: 8192, most: 1_048_576 },
  headers: { limit: 'headerCount', unit: 1, least: 20, most: 2000 },
  handshakeSeconds: { limit: 'handshakeMs', unit: 1000, least: 1, most: 120 },
  headersSeconds: { limit: 'headersMs', unit: 1000, least: 1, most: 3600 },
  keepAliveSeconds: { limit: 'keepAliveMs', unit: 1000, least: 1, most: 3600 },
  idleSeconds: { limit: 'silentMs', unit: 1000, least: 10, most: 86_400 },
  connections: { limit: 'connections', unit: 1, least: 1, most: 1_000_000 },
  connectionsPerMicrovm: { limit: 'connectionsPerMicrovm', unit: 1, least: 1, most: 1_000_000 },
} as const satisfies Record<string, Key>;

/** What a value must look like, for the refusal of one that does not. */
export const LIMITS_FORM =
  `default, service, or one of them and changes such as default,connections=20000,requests=50/100 ` +
  `(${Object.entries(KEYS)
    .map(([name, { least, most }]) => `${name} ${least} to ${most}`)
    .join(', ')}, requests per second and burst or off)`;

/** Undefined for what is not of that form. */
export function parseLimits(text: string): Limits | undefined {
  const [base, ...changes] = text.split(',');
  if (base !== 'default' && base !== 'service') return undefined;
  const changed = new Map<string, Limits[keyof Limits]>(
    base === 'service' ? [['connectionsPerMicrovm', 'ofSize'] as const, ['requests', 'ofSize'] as const] : [],
  );
  for (const change of changes) {
    const [, name = '', value = ''] = /^(\w+)=(off|\d{1,9}(?:\/\d{1,9})?)$/.exec(change) ?? [];
    if (name === 'requests') {
      const rate = rateOf(value);
      if (rate === undefined) return undefined;
      changed.set(name, rate);
      continue;
    }
    const key = Object.hasOwn(KEYS, name) ? KEYS[name as keyof typeof KEYS] : undefined;
    const number = Number(value);
    if (key === undefined || !(number >= key.least && number <= key.most)) return undefined;
    changed.set(key.limit, number * key.unit);
  }
  return Object.freeze({ ...DEFAULT_LIMITS, ...Object.fromEntries(changed) });
}

function rateOf(value: string): RequestRate | 'off' | undefined {
  if (value === 'off') return value;
  const [perSecond = 0, burst = perSecond] = value.split('/').map(Number);
  return perSecond > 0 ? { perSecond, burst: Math.max(1, burst) } : undefined;
}
