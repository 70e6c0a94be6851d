/** From what an operation answers to its JSON body, driven by the table. */
import type { Members, Shape } from '../../spec/shape.ts';

/**
 * The body's members in the table's order. Absent ones are null where the service writes nulls (top level, and items of
 * lists); nested structures are echoed as they are. GUESS: nested-null-members
 */
export function writeOutput(
  members: Members,
  value: Readonly<Record<string, unknown>>,
  options: { writesNulls: boolean },
): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(members).flatMap(([name, member]) => {
      const written = writeValue(member.shape, value[name], options);
      if (written === undefined) return options.writesNulls ? [[name, null]] : [];
      return [[name, written]];
    }),
  );
}

function writeValue(shape: Shape, value: unknown, options: { writesNulls: boolean }): unknown {
  if (value === undefined || value === null) return undefined;
  switch (shape.kind) {
    case 'timestamp':
      return shape.format === 'epoch' ? Number(value) / 1000 : new Date(Number(value)).toISOString();
    case 'list': {
      const items = value as readonly unknown[];
      const { of } = shape;
      return items.map((item) =>
        of.kind === 'structure'
          ? writeOutput(of.members, item as Readonly<Record<string, unknown>>, options)
          : writeValue(of, item, options),
      );
    }
    case 'structure':
    case 'union':
      return writeOutput(shape.members, value as Readonly<Record<string, unknown>>, { writesNulls: false });
    case 'map':
    case 'string':
    case 'integer':
    case 'long':
    case 'boolean':
      return value;
    default:
      return shape satisfies never;
  }
}
