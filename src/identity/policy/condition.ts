/**
 * Condition operators of policies: what each takes as a policy's values, how it compares them with the request's, and
 * what a missing key means to it. Source: the IAM user guide's chapter on condition operators.
 */
import { BlockList, isIP } from 'node:net';
import { compilePattern, matches, type Pattern, type Variables } from './wildcard.ts';

/** What a request says of itself, by condition key (`aws:SourceIp`); several values for keys that are lists. */
export type Context = Readonly<Record<string, string | readonly string[]>>;

/** A context prepared for look-ups: IAM compares the names of keys without regard to case. */
export type ContextKeys = ReadonlyMap<string, readonly string[]>;

/** One operator applied to one key. */
export interface Condition {
  readonly operator: string;
  readonly key: string;
  readonly values: readonly string[];
  holds(context: ContextKeys, variables: Variables): boolean;
}

/** Whether a request's value fits one of the policy's. */
type Test = (actual: string, variables: Variables) => boolean;

interface Operator {
  /** Makes the test for one of the policy's values. @throws RangeError with a sentence's end for a value it can't take */
  test(value: string, options: { variables: boolean }): Test;
  readonly isNegated: boolean;
}

const plain = (test: Operator['test']): Operator => ({ test, isNegated: false });
const negated = ({ test }: Operator): Operator => ({ test, isNegated: true });

const stringEquals = plain((value, { variables }) =>
  byPattern(compilePattern(value, { variables, wildcards: 'none' })),
);
const stringLike = plain((value, { variables }) => byPattern(compilePattern(value, { variables, wildcards: 'text' })));
const stringEqualsIgnoreCase = plain((value, { variables }) =>
  byPattern(compilePattern(value, { variables, wildcards: 'none' }), { ignoreCase: true }),
);
const arnLike = plain((value, { variables }) => arnTest(value, variables));
const numeric = (compare: (a: number, b: number) => boolean) =>
  plain((value) => {
    const wanted = numberOf(value);
    if (wanted === undefined) throw new RangeError(`"${value}" is not a number`);
    return (actual) => compare(numberOf(actual) ?? Number.NaN, wanted);
  });
const date = (compare: (a: number, b: number) => boolean) =>
  plain((value) => {
    const wanted = instantOf(value);
    if (wanted === undefined) throw new RangeError(`"${value}" is not a date (ISO 8601, or seconds since the epoch)`);
    return (actual) => compare(instantOf(actual) ?? Number.NaN, wanted);
  });
const bool = plain((value) => {
  const wanted = booleanOf(value);
  return (actual) => actual.toLowerCase() === String(wanted);
});
const binaryEquals = plain((value) => {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(value)) throw new RangeError(`"${value}" is not base64`);
  return (actual) => actual === value;
});
const ipAddress = plain((value) => {
  const block = cidrOf(value);
  return (actual) => isInBlock(block, actual);
});

const equal = (a: number, b: number) => a === b;
const OPERATORS: ReadonlyMap<string, Operator> = new Map(
  Object.entries({
    StringEquals: stringEquals,
    StringNotEquals: negated(stringEquals),
    StringEqualsIgnoreCase: stringEqualsIgnoreCase,
    StringNotEqualsIgnoreCase: negated(stringEqualsIgnoreCase),
    StringLike: stringLike,
    StringNotLike: negated(stringLike),
    NumericEquals: numeric(equal),
    NumericNotEquals: negated(numeric(equal)),
    NumericLessThan: numeric((a, b) => a < b),
    NumericLessThanEquals: numeric((a, b) => a <= b),
    NumericGreaterThan: numeric((a, b) => a > b),
    NumericGreaterThanEquals: numeric((a, b) => a >= b),
    DateEquals: date(equal),
    DateNotEquals: negated(date(equal)),
    DateLessThan: date((a, b) => a < b),
    DateLessThanEquals: date((a, b) => a <= b),
    DateGreaterThan: date((a, b) => a > b),
    DateGreaterThanEquals: date((a, b) => a >= b),
    Bool: bool,
    BinaryEquals: binaryEquals,
    IpAddress: ipAddress,
    NotIpAddress: negated(ipAddress),
    ArnEquals: arnLike,
    ArnLike: arnLike,
    ArnNotEquals: negated(arnLike),
    ArnNotLike: negated(arnLike),
  }),
);

/**
 * Reads one operator with one key and its values.
 * @throws RangeError with a sentence's end: unknown operator, malformed key or value
 */
export function readCondition(
  operator: string,
  key: string,
  values: readonly string[],
  options: { variables: boolean },
): Condition {
  if (!/^[A-Za-z0-9-]+:\S/.test(key)) throw new RangeError(`"${key}" is not a condition key such as aws:SourceIp`);
  if (values.length === 0) throw new RangeError(`${operator} has no value for ${key}`);
  const name = key.toLowerCase();
  const base = { operator, key, values };
  if (operator === 'Null') {
    const wanted = values.map(booleanOf);
    return { ...base, holds: (context) => wanted.includes(!context.has(name)) };
  }
  const [, quantifier, kind = '', ifExists] =
    /^(?:(ForAllValues|ForAnyValue):)?([A-Za-z]+?)(IfExists)?$/.exec(operator) ?? [];
  const found = OPERATORS.get(kind);
  if (found === undefined) throw new RangeError(`"${operator}" is not a condition operator`);
  const tests = values.map((value) => found.test(value, options));
  return {
    ...base,
    holds: (context, variables) => {
      const actual = context.get(name);
      if (actual === undefined) {
        if (ifExists !== undefined || quantifier === 'ForAllValues') return true;
        return found.isNegated && quantifier === undefined;
      }
      const fits = (value: string) => tests.some((test) => test(value, variables)) !== found.isNegated;
      if (quantifier === 'ForAllValues') return actual.every(fits);
      if (quantifier === 'ForAnyValue') return actual.some(fits);
      // One value is what operators without a quantifier are for; of several, a negated one must hold for each.
      return found.isNegated ? actual.every(fits) : actual.some(fits);
    },
  };
}

/** Keys without a value count as absent. */
export function contextKeys(context: Context): ContextKeys {
  const keys = new Map<string, readonly string[]>();
  for (const [key, value] of Object.entries(context)) {
    const values = typeof value === 'string' ? [value] : value;
    if (values.length > 0) keys.set(key.toLowerCase(), values);
  }
  return keys;
}

function byPattern(pattern: Pattern, options: { ignoreCase?: boolean } = {}): Test {
  return (actual, variables) => {
    const steps = pattern.steps(variables);
    return steps !== undefined && matches(steps, actual, options);
  };
}

/** Six parts, compared one by one; the last takes the rest, colons included. */
function arnTest(value: string, variables: boolean): Test {
  if (value === '*') return () => true;
  const patterns = arnParts(value)?.map((part) => compilePattern(part, { variables, wildcards: 'text' }));
  if (patterns === undefined) throw new RangeError(`"${value}" is not an ARN`);
  return (actual, resolve) => {
    const parts = arnParts(actual);
    if (parts === undefined) return false;
    return patterns.every((pattern, index) => {
      const steps = pattern.steps(resolve);
      return steps !== undefined && matches(steps, parts[index] ?? '');
    });
  };
}

/** Colons of policy variables separate nothing. */
function arnParts(text: string): string[] | undefined {
  const found = [...text.matchAll(/\$\{[^}]*\}|:/g)].filter(([match]) => match === ':').slice(0, 5);
  if (found.length < 5) return undefined;
  const cuts = found.map(({ index }) => index);
  const parts = cuts.map((cut, n) => text.slice(n === 0 ? 0 : (cuts[n - 1] ?? 0) + 1, cut));
  parts.push(text.slice((cuts[4] ?? 0) + 1));
  return parts[0] === 'arn' || parts[0] === '*' ? parts : undefined;
}

function numberOf(text: string): number | undefined {
  return /^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$/.test(text) ? Number(text) : undefined;
}

const ISO_DATE = /^\d{4}(-\d\d(-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[-+]\d\d:?\d\d)?)?)?)?$/;

/** Milliseconds; a time without a zone is UTC. */
function instantOf(text: string): number | undefined {
  if (/^\d{5,}(\.\d+)?$/.test(text)) return Number(text) * 1000;
  const [, , , time, , , zone] = ISO_DATE.exec(text) ?? [];
  if (!ISO_DATE.test(text)) return undefined;
  const at = Date.parse(time !== undefined && zone === undefined ? `${text}Z` : text);
  return Number.isNaN(at) ? undefined : at;
}

function booleanOf(text: string): boolean {
  const folded = text.toLowerCase();
  if (folded !== 'true' && folded !== 'false') throw new RangeError(`"${text}" is neither true nor false`);
  return folded === 'true';
}

interface Block {
  readonly list: BlockList;
  readonly family: 'ipv4' | 'ipv6';
}

function cidrOf(text: string): Block {
  const [address = '', prefix, ...rest] = text.split('/');
  const family = isIP(address) === 6 ? 'ipv6' : 'ipv4';
  const bits = family === 'ipv6' ? 128 : 32;
  const length = prefix === undefined ? bits : Number(/^\d{1,3}$/.test(prefix) ? prefix : Number.NaN);
  if (isIP(address) === 0 || rest.length > 0 || !(length <= bits)) {
    throw new RangeError(`"${text}" is not an IP address or range such as 203.0.113.0/24`);
  }
  const list = new BlockList();
  list.addSubnet(address, length, family);
  return { list, family };
}

function isInBlock({ list, family }: Block, text: string): boolean {
  const address = text.startsWith('::ffff:') && isIP(text.slice(7)) === 4 ? text.slice(7) : text;
  const found = isIP(address);
  if (found === 0) return false;
  return (found === 6 ? 'ipv6' : 'ipv4') === family && list.check(address, family);
}
