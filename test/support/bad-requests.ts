/**
 * Requests that must be refused, made from the wire tables: a well-formed request of some operation with one thing broken.
 * The same seed gives the same requests.
 */
import { lambdaCore } from '../../spec/lambda-core.ts';
import { lambdaMicrovms } from '../../spec/lambda-microvms.ts';
import type { Member, Operation, Shape } from '../../spec/shape.ts';
import { account, signedHeaders, type Unsigned } from './signer.ts';

export interface BadRequest {
  readonly what: string;
  readonly method: string;
  readonly target: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

/** Things that are there: refusals must not depend on everything being unknown. */
export interface Known {
  readonly host: string;
  readonly imageArn: string;
  readonly microvmId: string;
  readonly connectorArn: string;
}

interface Parts {
  operation: Operation;
  labels: Record<string, string>;
  query: Record<string, unknown>;
  body: Record<string, unknown>;
}

export class BadRequests {
  readonly #random: Random;
  readonly #known: Known;
  readonly #operations = [
    ...Object.entries<Operation>(lambdaMicrovms.operations),
    ...Object.entries<Operation>(lambdaCore.operations),
  ];

  constructor(seed: number, known: Known) {
    this.#random = new Random(seed);
    this.#known = known;
  }

  next(): BadRequest {
    const { pick } = this.#random;
    const [name, operation] = pick(this.#operations);
    const breakIt = pick([
      brokenMember,
      brokenMember,
      brokenMember,
      unknownThing,
      brokenJson,
      brokenWire,
      brokenSignature,
    ]);
    const parts = this.#wellFormed(operation);
    const made = breakIt(this.#random, parts, this.#known) ?? brokenSignature(this.#random, parts, this.#known);
    return { ...made, what: `${name}: ${made.what}` };
  }

  #wellFormed(operation: Operation): Parts {
    const parts: Parts = { operation, labels: {}, query: {}, body: {} };
    for (const [name, member] of Object.entries<Member>(operation.input)) {
      if (!member.required && this.#random.chance(0.6)) continue;
      const value = this.#valueOf(name, member.shape);
      const wire = member.wire ?? name;
      if (member.in === 'path') parts.labels[wire] = String(value);
      else if (member.in === 'query') parts.query[wire] = value;
      else parts.body[wire] = value;
    }
    return parts;
  }

  #valueOf(name: string, shape: Shape): unknown {
    const known: Record<string, string> = {
      imageIdentifier: this.#known.imageArn,
      microvmIdentifier: this.#known.microvmId,
      Identifier: this.#known.connectorArn,
      Resource: this.#known.imageArn,
      imageVersion: '1.0',
    };
    if (known[name] !== undefined) return known[name];
    switch (shape.kind) {
      case 'string':
        return shape.enum === undefined ? 'x' : this.#random.pick(shape.enum);
      case 'integer':
      case 'long':
        return shape.min ?? 1;
      case 'boolean':
        return true;
      case 'timestamp':
        return 1;
      case 'list':
        return [this.#valueOf('', shape.of)];
      case 'map':
        return { key: 'value' };
      case 'structure':
        return Object.fromEntries(
          Object.entries(shape.members).map(([inner, member]) => [inner, this.#valueOf(inner, member.shape)]),
        );
      case 'union': {
        const [inner, member] = this.#random.pick(Object.entries(shape.members));
        return { [inner]: this.#valueOf(inner, member.shape) };
      }
      default:
        return shape satisfies never;
    }
  }
}

/** Undefined where the operation has nothing of the kind to break. */
type Break = (random: Random, parts: Parts, known: Known) => BadRequest | undefined;

/** A member that is missing, of the wrong type, or beyond its limits. */
const brokenMember: Break = (random, parts, known) => {
  const inBody = Object.entries<Member>(parts.operation.input).filter(([, member]) => member.in === 'body');
  const [name, member] = random.pick(inBody.length > 0 ? inBody : [undefined]) ?? [];
  if (name === undefined || member === undefined) return undefined;
  const wire = member.wire ?? name;
  if (member.required && random.chance(0.3)) {
    delete parts.body[wire];
    return send(`${name} is missing`, parts, known);
  }
  parts.body[wire] = wrongValue(random, member.shape);
  return send(`${name} is wrong`, parts, known);
};

/** Of another type than the shape, or of the type and beyond a limit. */
function wrongValue(random: Random, shape: Shape): unknown {
  const beyond: unknown[] = [];
  if (shape.kind === 'string') {
    if (shape.max !== undefined) beyond.push('x'.repeat(Math.min(shape.max, 20_000) + 20_001));
    if ((shape.min ?? 0) > 0) beyond.push('');
    if (shape.enum !== undefined) beyond.push('NO_SUCH_VALUE', 'constructor', '');
  }
  if (shape.kind === 'integer' || shape.kind === 'long') {
    if (shape.max !== undefined) beyond.push(shape.max + 1);
    if (shape.min !== undefined) beyond.push(shape.min - 1);
    beyond.push(1.5, 1e300, 2 ** 53);
  }
  if (shape.kind === 'union') beyond.push({}, { noSuchMember: {} }, { __proto__: null, constructor: {} });
  const types: readonly (readonly [kinds: readonly Shape['kind'][], value: unknown])[] = [
    [['string'], 'text'],
    [['integer', 'long', 'timestamp'], 1],
    [['boolean'], true],
    [['list'], ['x']],
    [['structure', 'union', 'map'], { key: 'x' }],
  ];
  const others = types.filter(([kinds]) => !kinds.includes(shape.kind)).map(([, value]) => value);
  return random.pick([...beyond, ...beyond, ...others]);
}

/** Well-formed, about something that does not exist or is somebody else's. */
const unknownThing: Break = (random, parts, known) => {
  const name = `none-${random.below(1e9)}`;
  const arn = known.imageArn.replace(/[^:]+$/, name);
  const labels: Record<string, readonly string[]> = {
    imageIdentifier: [
      arn,
      name,
      arn.replace('image:', 'image/'),
      arn.replace(account, '111122223333'),
      `${arn}:1.0`,
      '%',
      '..',
    ],
    microvmIdentifier: [`microvm-${name}`, known.imageArn, '%00', 'constructor', '__proto__', 'x'.repeat(300)],
    Identifier: [name, 'nc-00000000-0000-0000-0000-000000000000', 'a b'],
    Resource: [arn, name, arn.replace(account, '111122223333')],
  };
  for (const [label, values] of Object.entries(labels)) {
    if (parts.labels[label] === undefined) continue;
    parts.labels[label] = random.pick(values);
    return send(`about an unknown ${label}`, parts, known);
  }
  if (parts.operation.input.imageIdentifier?.in === 'body') {
    parts.body.imageIdentifier = random.pick([arn, name, arn.replace(account, '111122223333')]);
    return send('about an unknown image', parts, known);
  }
  const token = ['nextToken', 'Marker'].find((one) => parts.operation.input[one] !== undefined);
  if (token === undefined) return undefined;
  parts.query[token] = random.pick(['x', '', 'AAAA', 'é', '='.repeat(9), 'x'.repeat(800)]);
  if (parts.query[token] === '') parts.query.maxResults = 'many';
  return parts.operation.input.Marker === undefined || parts.query[token] !== ''
    ? send('a made-up cursor', parts, known)
    : undefined;
};

const brokenJson: Break = (random, parts, known) => {
  if (Object.values<Member>(parts.operation.input).every((member) => member.in !== 'body')) return undefined;
  const text = JSON.stringify(parts.body);
  const body = random.pick([
    Buffer.from(text.slice(0, -1)),
    Buffer.from(`${text}}`),
    Buffer.from(`[${text}]`),
    Buffer.from('"text"'),
    Buffer.from('1'),
    Buffer.from([0xff, 0xfe, 0x7b, 0x7d]),
    Buffer.from('['.repeat(50_000)),
    Buffer.from(text.replace('{', '{"\\ud800\\u0000":NaN,')),
    Buffer.from('\0'),
  ]);
  return send('a body that is no JSON object', parts, known, { body });
};

const brokenWire: Break = (random, parts, known) => {
  const { method } = parts.operation;
  return random.pick<() => BadRequest | undefined>([
    () => send('a method nobody has', parts, known, { method: 'OPTIONS' }),
    () => send('a path one segment longer', parts, known, { suffix: '/more' }),
    () => send('a path with a slash at its end', parts, known, { suffix: '/' }),
    () => send('a broken escape in the path', parts, known, { suffix: '%' }),
    () => send('a broken escape in the query', parts, known, { rawQuery: 'a=%zz' }),
    () => send('a query with a raw equals sign', parts, known, { rawQuery: 'nextToken=a==' }),
    () =>
      ['GET', 'DELETE'].includes(method)
        ? undefined
        : send('a body that calls itself XML', parts, known, {
            body: Buffer.from(JSON.stringify(parts.body)),
            headers: { 'content-type': 'text/xml' },
          }),
    () =>
      send('a body beyond the limit', parts, known, {
        headers: { 'content-length': '9999999' },
        body: Buffer.alloc(0),
      }),
  ])();
};

const brokenSignature = (random: Random, parts: Parts, known: Known): BadRequest => {
  const good = requestOf(parts, known);
  return random.pick<() => BadRequest>([
    () => finish('no signature', good, good.headers),
    () => finish('a signature with another secret', good, signedHeaders(good, { secret: 'other' })),
    () => finish('a signature of an hour ago', good, signedHeaders(good, { now: Date.now() - 3_600_000 })),
    () => finish('a signature for another region', good, signedHeaders(good, { region: 'mars-north-1' })),
    () => finish('a signature over another body', good, signedHeaders({ ...good, body: Buffer.from('other') })),
    () => finish('a signature over another path', good, signedHeaders({ ...good, path: `${good.path}x` })),
    () =>
      finish('a signature that is none', good, {
        ...good.headers,
        authorization: random.pick(['x', 'AWS4-HMAC-SHA256', 'Basic eDp5', '=']),
      }),
  ])();
};

interface Change {
  readonly method?: string;
  readonly suffix?: string;
  readonly rawQuery?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Buffer;
}

function send(what: string, parts: Parts, known: Known, change: Change = {}): BadRequest {
  const plain = requestOf(parts, known);
  const request: Unsigned = {
    ...plain,
    method: change.method ?? plain.method,
    path: `${plain.path}${change.suffix ?? ''}`,
    headers: { ...plain.headers, ...change.headers },
    body: change.body ?? plain.body,
  };
  const made = finish(what, request, signedHeaders(request));
  return change.rawQuery === undefined ? made : { ...made, target: `${request.path}?${change.rawQuery}` };
}

function requestOf({ operation, labels, query, body }: Parts, known: Known): Unsigned {
  const encode = (text: string) =>
    encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
  const path = operation.uri.replace(/\{(\w+)\}/g, (_, label: string) => encode(labels[label] ?? 'x'));
  const pairs = Object.entries(query).flatMap(([name, value]) =>
    [value].flat().map((one) => [encode(name), encode(String(one))] as const),
  );
  const hasBody = Object.values<Member>(operation.input).some((member) => member.in === 'body');
  const bytes = hasBody ? Buffer.from(JSON.stringify(body)) : Buffer.alloc(0);
  const headers: Record<string, string> = { host: known.host };
  if (hasBody) headers['content-type'] = 'application/json';
  return { method: operation.method, path, query: pairs, headers, body: bytes };
}

function finish(what: string, request: Unsigned, headers: Readonly<Record<string, string>>): BadRequest {
  const query = request.query.map((pair) => pair.join('=')).join('&');
  const { method, path, body } = request;
  const length = { 'content-length': String(body.length) };
  return { what, method, target: query === '' ? path : `${path}?${query}`, headers: { ...length, ...headers }, body };
}

/** mulberry32: small, even, the same everywhere. */
class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  #next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  below = (count: number): number => Math.floor(this.#next() * count);
  chance = (share: number): boolean => this.#next() < share;
  pick = <T>(choices: readonly T[]): T => choices[this.below(choices.length)] as T;
}
