/** Reads one line of the flow log: the gateway writes it about what hostile guests did, so its shape is checked. */
import type { FlowRecord } from '../egress.ts';

type Fields = Readonly<Record<string, unknown>>;
type Shape = Readonly<Record<string, (value: unknown) => boolean>>;

const text = (value: unknown) => typeof value === 'string' && value.length <= 1024;
const textOrNull = (value: unknown) => value === null || text(value);
const count = (value: unknown) => typeof value === 'number' && Number.isFinite(value) && value >= 0;
const texts = (value: unknown) => Array.isArray(value) && value.length <= 256 && value.every(text);
const oneOf =
  (...words: string[]) =>
  (value: unknown) =>
    typeof value === 'string' && words.includes(value);

const COMMON = {
  at: (value: unknown) => text(value) && !Number.isNaN(Date.parse(String(value))),
  guest: text,
  principal: text,
  imageArn: text,
  imageVersion: text,
} satisfies Shape;
const JUDGED = { verdict: oneOf('allowed', 'refused'), rule: textOrNull, reason: textOrNull } satisfies Shape;

const KINDS: Readonly<Record<FlowRecord['kind'], Shape>> = {
  flow: {
    ...JUDGED,
    protocol: oneOf('tcp', 'udp', 'icmp'),
    to: text,
    name: textOrNull,
    bytesOut: count,
    bytesIn: count,
    durationMs: count,
  },
  dns: { ...JUDGED, name: text, type: text, answers: texts, durationMs: count },
  drop: { what: text, count },
  suppressed: { count },
};

/** Undefined for what is no whole record: a torn line, or one of a later generation. */
export function parseFlow(line: string): FlowRecord | undefined {
  let fields: Fields;
  try {
    fields = JSON.parse(line) as Fields;
  } catch {
    return undefined;
  }
  if (typeof fields !== 'object' || fields === null || typeof fields.kind !== 'string') return undefined;
  if (!Object.hasOwn(KINDS, fields.kind)) return undefined;
  const kind = fields.kind as FlowRecord['kind'];
  const shape: Shape = { ...COMMON, ...KINDS[kind] };
  const picked: Record<string, unknown> = { kind };
  for (const [name, fits] of Object.entries(shape)) {
    if (!fits(fields[name])) return undefined;
    picked[name] = fields[name];
  }
  return picked as unknown as FlowRecord;
}
