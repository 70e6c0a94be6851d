/**
 * The account's quotas and call rates, from one setting: `off`, `service` (the service's published defaults), or a list
 * that changes some of them, e.g. `service,images=200,RunMicrovm=50/100,builds=off`.
 */
import { operations as coreOperations } from '../spec/lambda-core.ts';
import { operations as microvmOperations } from '../spec/lambda-microvms.ts';

export interface CallRate {
  readonly perSecond: number;
  readonly burst: number;
}
type OperationName = keyof typeof microvmOperations | keyof typeof coreOperations;

/** What is absent is not limited. */
export interface Quotas {
  readonly images?: number;
  readonly versionsPerImage?: number;
  readonly concurrentBuilds?: number;
  readonly connectors?: number;
  /** Of all microVMs that have not ended, by the size of their version. */
  readonly memoryMiB?: number;
  readonly rates: Readonly<Partial<Record<OperationName, CallRate>>>;
}

/** Source: the guide's quotas page. Connectors' number is not public. GUESS: connector-quota */
function serviceQuotas(region: string): Quotas {
  const isLarge = ['us-east-1', 'us-east-2', 'us-west-2', 'ap-northeast-1'].includes(region);
  const both = (n: number) => ({ perSecond: n, burst: n });
  return {
    images: 100,
    versionsPerImage: 50,
    concurrentBuilds: isLarge ? 10 : 5,
    connectors: 100,
    memoryMiB: (isLarge ? 1024 : 400) * 1024,
    rates: {
      RunMicrovm: both(5),
      ResumeMicrovm: both(5),
      SuspendMicrovm: both(2),
      TerminateMicrovm: both(10),
      GetMicrovm: both(100),
      CreateMicrovmAuthToken: both(50),
      CreateMicrovmShellAuthToken: both(5),
    },
  };
}

const COUNTS = {
  images: 'images',
  versions: 'versionsPerImage',
  builds: 'concurrentBuilds',
  connectors: 'connectors',
  memoryMiB: 'memoryMiB',
} as const satisfies Record<string, Exclude<keyof Quotas, 'rates'>>;

/** What a value must look like, for the refusal of one that does not. */
export const QUOTAS_FORM =
  `off, service, or one of them and changes such as service,images=200,RunMicrovm=50/100,builds=off ` +
  `(${Object.keys(COUNTS).join(', ')}, or an operation's calls per second and burst)`;

/** Undefined for what is not of that form. */
export function parseQuotas(text: string, region: string): Quotas | undefined {
  const [base, ...changes] = text.split(',');
  if (base !== 'off' && base !== 'service') return undefined;
  const { rates, ...counts } = base === 'service' ? serviceQuotas(region) : { rates: {} };
  const changed = { counts: new Map(Object.entries(counts)), rates: new Map(Object.entries(rates)) };
  for (const change of changes) {
    const [, name = '', value = ''] = /^(\w+)=(off|\d{1,9}(?:\/\d{1,9})?)$/.exec(change) ?? [];
    if (Object.hasOwn(COUNTS, name) && !value.includes('/')) {
      const key = COUNTS[name as keyof typeof COUNTS];
      if (value === 'off') changed.counts.delete(key);
      else changed.counts.set(key, Number(value));
    } else if (Object.hasOwn(microvmOperations, name) || Object.hasOwn(coreOperations, name)) {
      const [perSecond = 0, burst = perSecond] = value.split('/').map(Number);
      if (value !== 'off' && perSecond === 0) return undefined;
      if (value === 'off') changed.rates.delete(name);
      else changed.rates.set(name, { perSecond, burst: Math.max(1, burst) });
    } else {
      return undefined;
    }
  }
  return { ...Object.fromEntries(changed.counts), rates: Object.fromEntries(changed.rates) };
}
