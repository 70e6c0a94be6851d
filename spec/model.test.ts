/** Compares our tables with the official service models, where those lie beside the repository. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { lambdaCore } from './lambda-core.ts';
import { lambdaMicrovms } from './lambda-microvms.ts';
import type { Members, Service, Shape } from './shape.ts';

interface ModelShape {
  readonly type: string;
  readonly min?: number;
  readonly max?: number;
  readonly pattern?: string;
  readonly enum?: readonly string[];
  readonly sensitive?: boolean;
  readonly union?: boolean;
  readonly timestampFormat?: string;
  readonly required?: readonly string[];
  readonly members?: Readonly<Record<string, { shape: string; location?: string; locationName?: string }>>;
  readonly member?: { shape: string };
  readonly key?: { shape: string };
  readonly value?: { shape: string };
  readonly exception?: boolean;
  readonly error?: { httpStatusCode: number };
}
interface Model {
  readonly metadata: { signingName: string };
  readonly operations: Readonly<
    Record<
      string,
      {
        http: { method: string; requestUri: string; responseCode: number };
        input?: { shape: string };
        output?: { shape: string };
        errors: readonly { shape: string }[];
      }
    >
  >;
  readonly shapes: Readonly<Record<string, ModelShape>>;
}

const locations: Readonly<Record<string, string>> = { uri: 'path', querystring: 'query', header: 'header' };

/** Both sides are brought to one plain form, in which member order does not count. */
function plainMembers(members: Members): object {
  return Object.fromEntries(
    Object.entries(members)
      .filter(([, member]) => member.unmodelled !== true)
      .map(([name, member]) => [
        name,
        {
          required: member.required,
          in: member.in,
          ...(member.in !== 'body' && { wire: member.wire ?? name }),
          shape: plain(member.shape),
        },
      ]),
  );
}

function plain(shape: Shape): object {
  switch (shape.kind) {
    case 'structure':
    case 'union':
      return { kind: shape.kind, members: plainMembers(shape.members) };
    case 'list':
      return { ...shape, of: plain(shape.of) };
    case 'map':
      return { ...shape, key: plain(shape.key), value: plain(shape.value) };
    case 'string':
      return shape.enum === undefined ? shape : { ...shape, enum: [...shape.enum].sort() };
    default:
      return shape;
  }
}

function modelMembers(model: Model, name: string | undefined): object {
  const shape = name === undefined ? undefined : model.shapes[name];
  return Object.fromEntries(
    Object.entries(shape?.members ?? {}).map(([member, { shape: target, location, locationName }]) => [
      member,
      {
        required: shape?.required?.includes(member) ?? false,
        in: location === undefined ? 'body' : locations[location],
        ...(location !== undefined && { wire: locationName ?? member }),
        shape: modelShape(model, target),
      },
    ]),
  );
}

function modelShape(model: Model, name: string): object {
  const shape = model.shapes[name];
  assert.ok(shape, `the model has ${name}`);
  const bounds = {
    ...(shape.min !== undefined && { min: shape.min }),
    ...(shape.max !== undefined && { max: shape.max }),
  };
  const inner = (ref: { shape: string } | undefined) => modelShape(model, ref?.shape ?? '');
  switch (shape.type) {
    case 'structure':
      return { kind: shape.union === true ? 'union' : 'structure', members: modelMembers(model, name) };
    case 'list':
      return { kind: 'list', of: inner(shape.member), ...bounds };
    case 'map':
      return { kind: 'map', key: inner(shape.key), value: inner(shape.value), ...bounds };
    case 'timestamp':
      return { kind: 'timestamp', format: shape.timestampFormat ?? 'epoch' };
    case 'string':
      return {
        kind: 'string',
        ...bounds,
        ...(shape.pattern !== undefined && { pattern: shape.pattern }),
        ...(shape.enum !== undefined && { enum: [...shape.enum].sort() }),
        ...(shape.sensitive === true && { sensitive: true }),
      };
    default:
      return { kind: shape.type, ...bounds };
  }
}

const cases: readonly (readonly [name: string, path: string, service: Service])[] = [
  ['lambda-microvms', 'lambda-microvms/2025-09-09/service-2.json', lambdaMicrovms],
  ['lambda-core', 'lambda-core/2026-04-30/service-2.json', lambdaCore],
];
for (const [name, path, service] of cases) {
  const file = join(import.meta.dirname, '../../shared/aws-model', path);
  const skip = existsSync(file) ? false : 'the official model does not lie beside the repository';

  test(`the ${name} table has the operations, members, limits and errors of the official model`, { skip }, () => {
    const model = JSON.parse(readFileSync(file, 'utf8')) as Model;
    assert.equal(service.signingName, model.metadata.signingName);
    assert.deepEqual(Object.keys(service.operations).sort(), Object.keys(model.operations).sort());
    for (const [operation, { method, uri, status, input, output, errors }] of Object.entries(service.operations)) {
      const official = model.operations[operation];
      assert.deepEqual(
        { method, requestUri: uri, responseCode: status },
        { ...official?.http },
        `method, URI and status of ${operation}`,
      );
      assert.deepEqual(plainMembers(input), modelMembers(model, official?.input?.shape), `input of ${operation}`);
      assert.deepEqual(plainMembers(output), modelMembers(model, official?.output?.shape), `output of ${operation}`);
      assert.deepEqual([...errors].sort(), official?.errors.map(({ shape }) => shape).sort(), `errors of ${operation}`);
    }
    const exceptions = Object.entries(model.shapes).filter(([, shape]) => shape.exception === true);
    assert.deepEqual(Object.keys(service.errors).sort(), exceptions.map(([error]) => error).sort());
    for (const [error, shape] of exceptions) {
      assert.equal(service.errors[error]?.status, shape.error?.httpStatusCode, `status of ${error}`);
      assert.deepEqual(plainMembers(service.errors[error]?.members ?? {}), modelMembers(model, error), error);
    }
  });
}
