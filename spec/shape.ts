/**
 * The vocabulary the wire tables are written in, and the TypeScript types that follow from a table.
 *
 * Invariant: a table is data. Routing, validation, reading and writing of bodies are driven by it; no table imports code.
 */

export interface StringShape {
  readonly kind: 'string';
  readonly min?: number;
  readonly max?: number;
  /** As the service prints it in refusals; matches the whole value. */
  readonly pattern?: string;
  readonly enum?: readonly string[];
  /** The value never shows in messages or logs. */
  readonly sensitive?: true;
}
export interface NumberShape {
  readonly kind: 'integer' | 'long';
  readonly min?: number;
  readonly max?: number;
}
export interface BooleanShape {
  readonly kind: 'boolean';
}
/** ms since the epoch inside; on the wire seconds as a number, or ISO 8601. */
export interface TimestampShape {
  readonly kind: 'timestamp';
  readonly format: 'epoch' | 'iso8601';
}
export interface ListShape {
  readonly kind: 'list';
  readonly of: Shape;
  readonly min?: number;
  readonly max?: number;
}
export interface MapShape {
  readonly kind: 'map';
  readonly key: StringShape;
  readonly value: StringShape;
  readonly min?: number;
  readonly max?: number;
}
export interface StructureShape {
  readonly kind: 'structure';
  readonly members: Members;
}
/** Exactly one member is set. */
export interface UnionShape {
  readonly kind: 'union';
  readonly members: Members;
}
export type Shape =
  | StringShape
  | NumberShape
  | BooleanShape
  | TimestampShape
  | ListShape
  | MapShape
  | StructureShape
  | UnionShape;

export interface Member {
  readonly shape: Shape;
  readonly required: boolean;
  readonly in: 'body' | 'path' | 'query' | 'header';
  /** Name in path, query or header where it differs from the member's. */
  readonly wire?: string;
  /** Seen on the wire, absent from the public model. */
  readonly unmodelled?: true;
}
export type Members = Readonly<Record<string, Member>>;

export interface Operation {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly uri: string;
  readonly status: number;
  readonly input: Members;
  readonly output: Members;
  readonly errors: readonly string[];
}

export interface ErrorShape {
  readonly status: number;
  readonly members: Members;
}

export interface Service {
  /** The service that signatures are scoped to. */
  readonly signingName: string;
  /** Whether absent members are written as null. */
  readonly writesNulls: boolean;
  readonly operations: Readonly<Record<string, Operation>>;
  readonly errors: Readonly<Record<string, ErrorShape>>;
}

interface Bounds {
  readonly min?: number;
  readonly max?: number;
}

export const string = <const C extends Omit<StringShape, 'kind'>>(constraints: C) =>
  ({ kind: 'string', ...constraints }) as const;
export const oneOf = <const E extends readonly string[]>(...values: E) => ({ kind: 'string', enum: values }) as const;
export const integer = (bounds: Bounds = {}) => ({ kind: 'integer', ...bounds }) as const;
export const long = (bounds: Bounds = {}) => ({ kind: 'long', ...bounds }) as const;
export const boolean = { kind: 'boolean' } as const;
export const epochSeconds = { kind: 'timestamp', format: 'epoch' } as const;
export const isoTimestamp = { kind: 'timestamp', format: 'iso8601' } as const;
export const list = <const S extends Shape>(of: S, bounds: Bounds = {}) => ({ kind: 'list', of, ...bounds }) as const;
export const map = <const K extends StringShape, const V extends StringShape>(key: K, value: V, bounds: Bounds = {}) =>
  ({ kind: 'map', key, value, ...bounds }) as const;
export const structure = <const M extends Members>(members: M) => ({ kind: 'structure', members }) as const;
export const union = <const M extends Members>(members: M) => ({ kind: 'union', members }) as const;

export const required = <const S extends Shape>(shape: S) => ({ shape, required: true, in: 'body' }) as const;
export const optional = <const S extends Shape>(shape: S) => ({ shape, required: false, in: 'body' }) as const;
export const path = <const S extends Shape>(shape: S) => ({ shape, required: true, in: 'path' }) as const;
export const query = <const S extends Shape>(shape: S) => ({ shape, required: false, in: 'query' }) as const;
export const unmodelled = <const S extends Shape>(shape: S) =>
  ({ shape, required: false, in: 'body', unmodelled: true }) as const;

type RequiredKeys<M> = { [K in keyof M]: M[K] extends { required: true } ? K : never }[keyof M];
type MemberShape<M> = M extends { shape: infer S } ? S : never;

/** What a request's value of a shape is once it was read and checked. */
export type ValueOf<S> = S extends { kind: 'string'; enum: readonly (infer E)[] }
  ? E
  : S extends { kind: 'string' }
    ? string
    : S extends { kind: 'integer' | 'long' | 'timestamp' }
      ? number
      : S extends { kind: 'boolean' }
        ? boolean
        : S extends { kind: 'list'; of: infer I }
          ? readonly ValueOf<I>[]
          : S extends { kind: 'map'; value: infer V }
            ? Readonly<Record<string, ValueOf<V>>>
            : S extends { kind: 'structure'; members: infer M }
              ? InputOf<M>
              : S extends { kind: 'union'; members: infer M }
                ? { [K in keyof M]: { readonly [P in K]: ValueOf<MemberShape<M[K]>> } }[keyof M]
                : never;

/** The input of an operation, or any structure in it: absent members are absent, never null. */
export type InputOf<M> = [keyof M] extends [never]
  ? Readonly<Record<string, never>>
  : { readonly [K in RequiredKeys<M>]: ValueOf<MemberShape<M[K]>> } & {
      readonly [K in Exclude<keyof M, RequiredKeys<M>>]?: ValueOf<MemberShape<M[K]>>;
    };

type AnswerValueOf<S> = S extends { kind: 'list'; of: infer I }
  ? readonly AnswerValueOf<I>[]
  : S extends { kind: 'structure'; members: infer M }
    ? OutputOf<M>
    : ValueOf<S>;

/** What an operation answers: optional members may be null or left out. */
export type OutputOf<M> = [keyof M] extends [never]
  ? Readonly<Record<string, never>>
  : { readonly [K in RequiredKeys<M>]: AnswerValueOf<MemberShape<M[K]>> } & {
      readonly [K in Exclude<keyof M, RequiredKeys<M>>]?: AnswerValueOf<MemberShape<M[K]>> | null | undefined;
    };
