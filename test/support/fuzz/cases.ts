/**
 * Cases for the endpoint's fuzzer: the bytes of one connection each, made from a seed. `wanted` is how many requests of the case
 * the app may see at most, and must see when `isSound`.
 */
import type { Endpoint } from '../../../src/test-endpoints.ts';

export interface Case {
  readonly name: string;
  readonly kind: string;
  readonly protocol: 'http/1.1' | 'h2';
  readonly pieces: readonly Buffer[];
  readonly atMost: number;
  /** Every request in it is well formed and admitted: all are answered. */
  readonly isSound: boolean;
  /** How a refusal must begin. */
  readonly refusal?: RegExp;
}

/** Mulberry32: small, fast, the same everywhere. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  of<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new Error('nothing to choose from');
    return item;
  }

  bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => this.below(256)));
  }
}

interface Around {
  readonly random: Random;
  readonly name: string;
  readonly vm: Endpoint;
  readonly others: readonly Endpoint[];
  readonly foreign: string;
}

type Maker = (around: Around) => Omit<Case, 'name' | 'kind' | 'pieces'> & { readonly bytes: Buffer | string };

const SMUGGLED = 'GET /smuggled HTTP/1.1\r\nHost: x\r\nX-Case: smuggled\r\n\r\n';

/** Lines that say twice, or doubtfully, where a body ends. */
const FRAMINGS = [
  'Content-Length: 5\r\nTransfer-Encoding: chunked',
  'Transfer-Encoding: chunked\r\nContent-Length: 5',
  'Content-Length: 5\r\nContent-Length: 6',
  'Content-Length: 5, 6',
  'Content-Length: 5,5',
  'Content-Length: +5',
  'Content-Length: -5',
  'Content-Length: 0x5',
  'Content-Length: 5 5',
  'Content-Length: 5\u00a0',
  'Content-Length: 99999999999999999999',
  'Content-Length:',
  'Content-Length : 5',
  ' Content-Length: 5',
  'Content-Length: 5\r\n Transfer-Encoding: chunked',
  'Transfer-Encoding: identity',
  'Transfer-Encoding: chunked, identity',
  'Transfer-Encoding: identity, chunked',
  'Transfer-Encoding: xchunked',
  'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked',
  'Transfer-Encoding: chunked\r\nTransfer-Encoding: x',
  'Transfer-Encoding:\u000bchunked',
  'Transfer-Encoding: chun\u0000ked',
  'Transfer-Encoding : chunked',
  'Transfer-Encoding\r\n : chunked',
  'Transfer-Encoding: "chunked"',
  'X: y\nTransfer-Encoding: chunked',
  'X: y\rTransfer-Encoding: chunked',
  'Transfer_Encoding: chunked\r\nContent-Length: 5\r\nContent_Length: 6',
  'Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 5',
  'Upgrade: h2c\r\nConnection: upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__',
  'Connection: Content-Length\r\nContent-Length: 5',
  'Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked',
  'Expect: 100-continue\r\nContent-Length: 5',
] as const;

const CHUNKS = [
  '5\r\nhello\r\n0\r\n\r\n',
  '0005\r\nhello\r\n0\r\n\r\n',
  '5;ext="a\r\nb"\r\nhello\r\n0\r\n\r\n',
  '5 \r\nhello\r\n0\r\n\r\n',
  '+5\r\nhello\r\n0\r\n\r\n',
  '0x5\r\nhello\r\n0\r\n\r\n',
  '-5\r\nhello\r\n0\r\n\r\n',
  '5\nhello\n0\n\n',
  '5\r\nhelloX\r\n0\r\n\r\n',
  'ffffffffffffffff\r\nhello\r\n0\r\n\r\n',
  '5\r\nhello\r\n0\r\nContent-Length: 7\r\n\r\n',
  '5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n',
  '5\r\nhello\r\n00\r\n\r\n',
  '5\r\nhello0\r\n\r\n',
  '\r\n5\r\nhello\r\n0\r\n\r\n',
] as const;

const TOKENS: readonly ((token: string, around: Around) => string)[] = [
  (_, { others, random }) => random.of(others).token,
  (_, { foreign }) => foreign,
  (token, { random }) => token.slice(0, random.below(token.length)),
  (token, { random }) => {
    const at = random.below(token.length);
    return `${token.slice(0, at)}${token[at] === 'A' ? 'B' : 'A'}${token.slice(at + 1)}`;
  },
  (token) => `${token}.AAAA`,
  (token) => `${token}, ${token}x`,
  (token) => `Bearer ${token}`,
  (token) => token.split('.').toReversed().join('.'),
  (token) => `eyJhbGciOiJub25lIn0.${token.split('.').slice(1).join('.')}`,
  (token) => token.repeat(20),
];

function head(
  { vm, name }: Around,
  request = 'GET / HTTP/1.1',
  lines: readonly string[] = [],
  token = vm.token,
): string {
  const all = ['Host: localhost', `X-aws-proxy-auth: ${token}`, `X-Vm: ${vm.id}`, `X-Case: ${name}`, ...lines];
  return `${request}\r\n${all.map((line) => `${line}\r\n`).join('')}\r\n`;
}

const MAKERS: Readonly<Record<string, Maker>> = {
  sound(around) {
    const { random } = around;
    const count = 1 + random.below(4);
    const one = () =>
      random.of([
        () => head(around, `GET /${random.below(1000)}?q=%20 HTTP/1.1`),
        () => `${head(around, 'POST / HTTP/1.1', ['Content-Length: 5'])}hello`,
        () =>
          `${head(around, 'PUT / HTTP/1.1', ['Transfer-Encoding: chunked'])}3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n`,
        () => head(around, 'DELETE / HTTP/1.1', ['X-Long: '.padEnd(random.below(12_000), 'x')]),
      ])();
    return { protocol: 'http/1.1', bytes: Array.from({ length: count }, one).join(''), atMost: count, isSound: true };
  },
  framing(around) {
    const { random } = around;
    const body = random.of([
      `hello${SMUGGLED}`,
      `0\r\n\r\n${SMUGGLED}`,
      `5\r\nhello\r\n0\r\n\r\n${SMUGGLED}`,
      SMUGGLED,
    ]);
    const request = random.of(['POST / HTTP/1.1', 'GET / HTTP/1.1', 'POST / HTTP/1.0', 'HEAD / HTTP/1.1']);
    return ambiguous(`${head(around, request, [random.of(FRAMINGS)])}${body}`);
  },
  chunks(around) {
    const chunks = around.random.of(CHUNKS);
    return ambiguous(`${head(around, 'POST / HTTP/1.1', ['Transfer-Encoding: chunked'])}${chunks}${SMUGGLED}`);
  },
  lines(around) {
    const { random } = around;
    const odd = random.of([
      'X: a\r\n b',
      'X\u0000: a',
      ': a',
      'X a',
      'X: a\u0000b',
      'X: a\rb',
      'X: a\nY: b',
      'Host: other',
      'X: \u007f',
    ]);
    const ends = random.of(['\r\n', '\n', '\r', '\r\r\n', '\n\r\n']);
    const request = random.of([
      'GET / HTTP/1.1',
      'GET  / HTTP/1.1',
      'GET / HTTP/1.2',
      'GET / http/1.1',
      'G\u0000T / HTTP/1.1',
      'GET /\u0001 HTTP/1.1',
      'GET\t/ HTTP/1.1',
      'PRI * HTTP/2.0',
      'CONNECT a:1 HTTP/1.1',
      'GET http://other/ HTTP/1.1',
      'GET / HTTP/1.1 HTTP/1.1',
    ]);
    return ambiguous(`${head(around, request, [odd]).replaceAll('\r\n', ends)}${SMUGGLED}`);
  },
  mutated(around) {
    const bytes = Buffer.from(`${head(around, 'POST / HTTP/1.1', ['Content-Length: 5'])}hello`, 'latin1');
    return ambiguous(mutate(bytes, around.random));
  },
  tokens(around) {
    const token = around.random.of(TOKENS)(around.vm.token, around);
    const bytes = head(around, 'GET / HTTP/1.1', [], token);
    if (token === around.vm.token) return ambiguous(bytes);
    return { protocol: 'http/1.1', bytes, atMost: 0, isSound: false, refusal: /^HTTP\/1\.1 403 / };
  },
  upgrades(around) {
    const { random, vm } = around;
    const protocols = [
      'lambda-microvms',
      `lambda-microvms.authentication.${vm.token}`,
      'lambda-microvms.port.80',
      'lambda-microvms.port.x',
      'chat',
      '',
      ',,',
    ];
    const lines = [
      'Connection: Upgrade',
      'Upgrade: websocket',
      'Sec-WebSocket-Version: 13',
      'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
      `Sec-WebSocket-Protocol: ${Array.from({ length: random.below(6) }, () => random.of(protocols)).join(random.of([',', ', ', ' ,']))}`,
    ].filter(() => random.below(8) > 0);
    return ambiguous(
      Buffer.concat([Buffer.from(`${head(around, 'GET / HTTP/1.1', lines)}`), Buffer.from(SMUGGLED), random.bytes(50)]),
    );
  },
  noise({ random }) {
    return { ...ambiguous(random.bytes(1 + random.below(2000))), atMost: 0 };
  },
  frames(around) {
    const { random } = around;
    const list = Array.from({ length: 1 + random.below(6) }, () => frame(around));
    const bytes = Buffer.concat([PREFACE, SETTINGS, ...list]);
    return {
      protocol: 'h2',
      bytes: random.below(3) === 0 ? mutate(bytes, random) : bytes,
      atMost: list.length,
      isSound: false,
    };
  },
  h2noise({ random }) {
    const bytes = Buffer.concat([random.below(2) === 0 ? PREFACE : Buffer.alloc(0), random.bytes(random.below(500))]);
    return { protocol: 'h2', bytes, atMost: 0, isSound: false };
  },
};

/** At most the first request may be taken for one. */
function ambiguous(bytes: string | Buffer): ReturnType<Maker> {
  return { protocol: 'http/1.1', bytes, atMost: 1, isSound: false };
}

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
const SETTINGS = h2Frame(4, 0, 0, Buffer.alloc(0));

function h2Frame(type: number, flags: number, stream: number, payload: Buffer, length = payload.length): Buffer {
  const header = Buffer.alloc(9);
  header.writeUIntBE(length & 0xffffff, 0, 3);
  header[3] = type;
  header[4] = flags;
  header.writeUInt32BE(stream, 5);
  return Buffer.concat([header, payload]);
}

/** HPACK's literal form without indexing or Huffman. */
function literal(name: string, value: string): Buffer {
  const [n, v] = [Buffer.from(name, 'latin1'), Buffer.from(value, 'latin1')];
  return Buffer.concat([Buffer.from([0x00]), integer(n.length), n, integer(v.length), v]);
}

function integer(value: number): Buffer {
  if (value < 127) return Buffer.from([value]);
  const bytes = [127];
  for (let rest = value - 127; ; rest >>= 7) {
    if (rest < 128) return Buffer.from([...bytes, rest]);
    bytes.push((rest & 127) | 128);
  }
}

function frame(around: Around): Buffer {
  const { random, vm, name } = around;
  const stream = 1 + 2 * random.below(4);
  const fields: [string, string][] = [
    [':method', random.of(['GET', 'POST', 'CONNECT', ''])],
    [':scheme', 'https'],
    [':authority', 'localhost'],
    [':path', random.of(['/', '/a', '', '*', '/ HTTP/1.1\r\nX: y'])],
    ['x-aws-proxy-auth', vm.token],
    ['x-vm', vm.id],
    ['x-case', name],
  ];
  const odd: [string, string][] = [
    ['x', 'a\r\nGET /smuggled HTTP/1.1\r\n\r\n'],
    ['x\r\nY', 'a'],
    ['X-Upper', 'a'],
    ['transfer-encoding', 'chunked'],
    ['connection', 'upgrade'],
    ['upgrade', 'websocket'],
    ['host', 'other'],
    ['content-length', '5'],
    ['content-length', '6'],
    ['te', 'gzip'],
    [':path', '/smuggled'],
    [':smuggled', '1'],
    ['', 'a'],
    ['x', `\u0000`],
  ];
  for (let i = random.below(3); i > 0; i--) fields.push(random.of(odd));
  const block = Buffer.concat(fields.map(([field, value]) => literal(field, value)));
  return random.of([
    () => h2Frame(1, random.of([4, 5, 0, 1, 0x2d]), stream, block),
    () => h2Frame(0, random.of([0, 1, 8]), stream, Buffer.from(SMUGGLED)),
    () => h2Frame(9, random.of([0, 4]), stream, block),
    () => h2Frame(8, 0, random.of([0, stream]), Buffer.from([0, 0, 0, random.below(3)])),
    () => h2Frame(3, 0, stream, Buffer.alloc(4)),
    () => h2Frame(6, 0, random.of([0, stream]), random.bytes(random.of([8, 7]))),
    () => h2Frame(4, 0, 0, random.bytes(6 * random.below(3))),
    () => h2Frame(random.below(256), random.below(256), random.below(2 ** 31), random.bytes(random.below(100))),
    () => h2Frame(1, 4, stream, block, random.below(2 ** 24)),
  ])();
}

function mutate(bytes: Buffer, random: Random): Buffer {
  let mutated = Buffer.from(bytes);
  for (let i = 1 + random.below(4); i > 0; i--) {
    const at = random.below(mutated.length);
    const rest = mutated.subarray(at);
    mutated = random.of([
      () => Buffer.concat([mutated.subarray(0, at), Buffer.from([random.below(256)]), rest.subarray(1)]),
      () =>
        Buffer.concat([
          mutated.subarray(0, at),
          Buffer.from(random.of(['\r', '\n', '\r\n', '\0', ' ', ':', '\t'])),
          rest,
        ]),
      () => Buffer.concat([mutated.subarray(0, at), rest.subarray(1 + random.below(10))]),
      () => Buffer.concat([mutated.subarray(0, at), rest.subarray(0, 20), rest]),
      () => mutated.subarray(0, Math.max(1, at)),
    ])();
  }
  return mutated;
}

export function makeCase(
  index: number,
  seed: number,
  endpoints: readonly Endpoint[],
  foreign: string,
): { made: Case; vm: Endpoint } {
  const random = new Random(seed + index * 7919);
  const kinds = Object.keys(MAKERS);
  const kind = kinds[index % kinds.length] ?? 'noise';
  const vm = random.of(endpoints);
  const others = endpoints.filter((one) => one !== vm);
  const name = `${kind}-${index}`;
  const { bytes, ...rest } = (MAKERS[kind] ?? MAKERS.noise)?.({ random, name, vm, others, foreign }) ?? ambiguous('');
  const whole = typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes;
  return { vm, made: { ...rest, name, kind, pieces: inPieces(whole, random) } };
}

/** As TCP might cut it. */
function inPieces(bytes: Buffer, random: Random): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = random.below(3) === 0 ? 1 + random.below(bytes.length) : bytes.length;
    pieces.push(bytes.subarray(at, at + length));
    at += length;
  }
  return pieces;
}
