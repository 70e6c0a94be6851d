/**
 * The constraint layer: every broken limit of an input as one sentence each, in the service's words.
 *
 * Forms for null, pattern and maximum length are recorded; the others are the usual ones of AWS services.
 * GUESS: constraint-wording
 */
import type { ListShape, MapShape, Member, Members, NumberShape, Shape, StringShape } from '../../spec/shape.ts';

/** The violations of `values` against `members`, in the members' order. */
export function checkConstraints(members: Members, values: Readonly<Record<string, unknown>>): string[] {
  return [...checkMembers(members, values, '')];
}

function* checkMembers(members: Members, values: Readonly<Record<string, unknown>>, at: string): Generator<string> {
  for (const [name, member] of Object.entries(members)) yield* checkMember(member, values[name], `${at}${camel(name)}`);
}

function* checkMember({ shape, required }: Member, value: unknown, at: string): Generator<string> {
  if (value !== undefined) yield* checkShape(shape, value, at);
  else if (required) yield violation(shape, 'null', at, 'Member must not be null', { quoted: false });
}

function* checkShape(shape: Shape, value: unknown, at: string): Generator<string> {
  switch (shape.kind) {
    case 'string':
      for (const rule of brokenTextRules(shape, String(value))) yield violation(shape, String(value), at, rule);
      return;
    case 'integer':
    case 'long':
      for (const rule of brokenNumberRules(shape, Number(value))) yield violation(shape, String(value), at, rule);
      return;
    case 'list':
      yield* checkList(shape, value as readonly unknown[], at);
      return;
    case 'map':
      yield* checkMap(shape, value as Readonly<Record<string, unknown>>, at);
      return;
    case 'structure':
    case 'union':
      yield* checkMembers(shape.members, value as Readonly<Record<string, unknown>>, `${at}.`);
      return;
    case 'boolean':
    case 'timestamp':
      return;
    default:
      shape satisfies never;
  }
}

function* checkList(shape: ListShape, items: readonly unknown[], at: string): Generator<string> {
  const shown = printed(items);
  for (const rule of brokenLengthRules(shape, items.length)) yield violation(shape, shown, at, rule);
  const { of } = shape;
  if (of.kind === 'string') {
    // Scalars are reported once for the whole list, with all rules of an item.
    const isBroken = (item: unknown) => item === undefined || brokenTextRules(of, String(item)).length > 0;
    if (items.some(isBroken)) {
      yield violation(shape, shown, at, `Member must satisfy constraint: [${allTextRules(of).join(', ')}]`);
    }
    return;
  }
  for (const [index, item] of items.entries()) {
    yield* checkMember({ shape: of, required: true, in: 'body' }, item, `${at}.${index + 1}.member`);
  }
}

function* checkMap(shape: MapShape, entries: Readonly<Record<string, unknown>>, at: string): Generator<string> {
  const keys = Object.keys(entries);
  const values = Object.values(entries);
  const shown = `{${Object.entries(entries)
    .map(([key, value]) => `${key}=${String(value)}`)
    .join(', ')}}`;
  for (const rule of brokenLengthRules(shape, keys.length)) yield violation(shape, shown, at, rule);
  if (keys.some((key) => brokenTextRules(shape.key, key).length > 0)) {
    yield violation(shape, shown, at, `Map keys must satisfy constraint: [${allTextRules(shape.key).join(', ')}]`);
  }
  if (values.some((value) => value === undefined || brokenTextRules(shape.value, String(value)).length > 0)) {
    yield violation(shape, shown, at, `Map value must satisfy constraint: [${allTextRules(shape.value).join(', ')}]`);
  }
}

function violation(shape: Shape, value: string, at: string, rule: string, options = { quoted: true }): string {
  const shown = options.quoted ? ` '${value}'` : ` ${value}`;
  return `Value${isSensitive(shape) ? '' : shown} at '${at}' failed to satisfy constraint: ${rule}`;
}

function isSensitive(shape: Shape): boolean {
  switch (shape.kind) {
    case 'string':
      return shape.sensitive === true;
    case 'list':
      return isSensitive(shape.of);
    case 'map':
      return isSensitive(shape.key) || isSensitive(shape.value);
    default:
      return false;
  }
}

function brokenTextRules(shape: StringShape, text: string): string[] {
  const rules = brokenLengthRules(shape, text.length);
  if (shape.pattern !== undefined && !compiled(shape.pattern).test(text)) rules.push(patternRule(shape.pattern));
  if (shape.enum !== undefined && !shape.enum.includes(text)) rules.push(enumRule(shape.enum));
  return rules;
}

function allTextRules(shape: StringShape): string[] {
  return [
    ...(shape.max === undefined ? [] : [maxLengthRule(shape.max)]),
    ...(shape.min === undefined ? [] : [minLengthRule(shape.min)]),
    ...(shape.pattern === undefined ? [] : [patternRule(shape.pattern)]),
    ...(shape.enum === undefined ? [] : [enumRule(shape.enum)]),
  ];
}

function brokenLengthRules(bounds: { min?: number; max?: number }, length: number): string[] {
  const rules: string[] = [];
  if (bounds.max !== undefined && length > bounds.max) rules.push(maxLengthRule(bounds.max));
  if (bounds.min !== undefined && length < bounds.min) rules.push(minLengthRule(bounds.min));
  return rules;
}

function brokenNumberRules(shape: NumberShape, value: number): string[] {
  if (shape.max !== undefined && value > shape.max)
    return [`Member must have value less than or equal to ${shape.max}`];
  if (shape.min !== undefined && value < shape.min) {
    return [`Member must have value greater than or equal to ${shape.min}`];
  }
  return [];
}

const maxLengthRule = (max: number) => `Member must have length less than or equal to ${max}`;
const minLengthRule = (min: number) => `Member must have length greater than or equal to ${min}`;
const patternRule = (pattern: string) => `Member must satisfy regular expression pattern: ${pattern}`;
const enumRule = (values: readonly string[]) => `Member must satisfy enum value set: [${values.join(', ')}]`;

const patterns = new Map<string, RegExp>();
function compiled(pattern: string): RegExp {
  const known = patterns.get(pattern);
  if (known !== undefined) return known;
  const made = new RegExp(`^(?:${pattern})$`, 'u');
  patterns.set(pattern, made);
  return made;
}

function printed(items: readonly unknown[]): string {
  return `[${items.map((item) => (typeof item === 'object' ? JSON.stringify(item) : String(item))).join(', ')}]`;
}

/** Paths are in camel case, also where the wire has capitals (recorded). */
function camel(name: string): string {
  return name.slice(0, 1).toLowerCase() + name.slice(1);
}
