/**
 * From path labels, query and JSON body to an operation's typed input, and the refusals of what cannot be read.
 *
 * Two layers, as the service has them: content of the wrong JSON type stops at once (SerializationException); broken
 * constraints are collected by `constraints.ts` into one ValidationException. Null members count as absent, unknown ones
 * are ignored.
 */
import type { InputOf, Member, Members, Operation, Shape, StructureShape } from '../../spec/shape.ts';
import { checkConstraints } from './constraints.ts';
import { serializationError, WireError } from './wire-error.ts';

export interface RawInput {
  readonly labels: Readonly<Record<string, string>>;
  readonly query: readonly (readonly [name: string, value: string])[];
  readonly body: Buffer;
}

/** @throws WireError `SerializationException`, `ValidationException` */
export function readInput<const O extends Pick<Operation, 'input'>>(operation: O, raw: RawInput): InputOf<O['input']> {
  const members = Object.entries<Member>(operation.input);
  const body = members.some(([, member]) => member.in === 'body') ? parseBody(raw.body) : {};
  const values = members.flatMap(([name, member]) => {
    const value = readMember(name, member, raw, body);
    return value === undefined ? [] : [[name, value] as const];
  });
  const input: Record<string, unknown> = Object.fromEntries(values);
  const violations = checkConstraints(operation.input, input);
  if (violations.length > 0) {
    const count = violations.length === 1 ? '1 validation error' : `${violations.length} validation errors`;
    throw new WireError('ValidationException', 400, { message: `${count} detected: ${violations.join('; ')}` });
  }
  // The table drove the reading, so the value has the type the table stands for.
  return input as InputOf<O['input']>;
}

function parseBody(body: Buffer): Record<string, unknown> {
  if (body.length === 0) return {};
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
  } catch (error) {
    // GUESS: malformed-json; without the piece of the body that V8 quotes, which may be somebody's secret
    const why = error instanceof SyntaxError ? error.message.replace(/,? ?(\.\.\.)?".*$/s, '') : 'it is not UTF-8';
    throw serializationError(`The request body is not valid JSON: ${why}`);
  }
  if (parsed === null) return {};
  if (!isObject(parsed)) throw serializationError('Unexpected content: the request body must be a JSON object.');
  return parsed;
}

function readMember(name: string, member: Member, raw: RawInput, body: Record<string, unknown>): unknown {
  const wire = member.wire ?? name;
  switch (member.in) {
    case 'path':
      return raw.labels[wire];
    case 'query': {
      const values = raw.query.filter(([key]) => key === wire).map(([, value]) => value);
      if (values.length === 0) return undefined;
      return member.shape.kind === 'list' ? values : readText(member.shape, values[0] ?? '');
    }
    case 'body':
      return readJson(member.shape, Object.hasOwn(body, wire) ? body[wire] : undefined);
    case 'header':
      return undefined;
    default:
      return member.in satisfies never;
  }
}

function readText(shape: Shape, text: string): unknown {
  if (shape.kind !== 'integer') return text;
  if (!/^[+-]?\d{1,10}$/.test(text)) throw serializationError(`'${text}' can not be converted to an Integer`);
  return Number(text);
}

/** Wordings other than "Expected null" (recorded) are not public. GUESS: wrong-json-type */
function readJson(shape: Shape, value: unknown): unknown {
  if (value === undefined || value === null) return undefined;
  switch (shape.kind) {
    case 'string':
      if (typeof value === 'string') return value;
      throw wrongType(value, 'a String');
    case 'integer':
    case 'long':
      if (typeof value === 'number' && Number.isSafeInteger(value)) return value;
      throw wrongType(value, shape.kind === 'integer' ? 'an Integer' : 'a Long');
    case 'boolean':
      if (typeof value === 'boolean') return value;
      throw wrongType(value, 'a Boolean');
    case 'timestamp':
      if (typeof value === 'number' && Number.isFinite(value)) return value * 1000;
      throw wrongType(value, 'a Timestamp');
    case 'list': {
      if (!Array.isArray(value)) throw serializationError('Expected list or null');
      const items: unknown[] = value;
      return items.map((item) => readJson(shape.of, item));
    }
    case 'map':
      if (!isObject(value)) throw expectedNull(value);
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, readJson(shape.value, item)]));
    case 'structure':
      if (!isObject(value)) throw expectedNull(value);
      return readMembers(shape, value);
    case 'union': {
      if (!isObject(value)) throw expectedNull(value);
      const read = readMembers(shape, value);
      // GUESS: union-arity
      if (Object.keys(read).length === 1) return read;
      throw serializationError(`Exactly one of ${Object.keys(shape.members).join(', ')} must be set`);
    }
    default:
      return shape satisfies never;
  }
}

function readMembers(shape: Pick<StructureShape, 'members'>, value: Record<string, unknown>): Record<string, unknown> {
  const members: Members = shape.members;
  return Object.fromEntries(
    Object.entries(members).flatMap(([name, member]) => {
      const read = Object.hasOwn(value, name) ? readJson(member.shape, value[name]) : undefined;
      return read === undefined ? [] : [[name, read]];
    }),
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function wrongType(value: unknown, wanted: string): WireError {
  if (typeof value === 'object') return serializationError('Start of structure or list found where not expected.');
  return serializationError(`${(typeof value).toUpperCase()}_VALUE can not be converted to ${wanted}`);
}

function expectedNull(value: unknown): WireError {
  return serializationError(Array.isArray(value) ? 'Start of list found where not expected.' : 'Expected null');
}
