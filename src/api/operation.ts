/** What an operation file provides: behaviour only; shape, limits and errors come from the table. */
import type { operations as coreOperations } from '../../spec/lambda-core.ts';
import type { operations as microvmOperations } from '../../spec/lambda-microvms.ts';
import type { InputOf, OutputOf } from '../../spec/shape.ts';
import type { Connectors } from '../connectors/index.ts';
import type { Principal } from '../identity/index.ts';
import type { Images } from '../images/index.ts';
import type { Microvms } from '../microvms/index.ts';

/** The domain's doors. */
export interface Rooms {
  readonly images: Images;
  readonly microvms: Microvms;
  readonly connectors: Connectors;
}

type Table = typeof microvmOperations & typeof coreOperations;
export type OperationName = keyof Table;
export type Input<N extends OperationName> = InputOf<Table[N]['input']>;
export type Output<N extends OperationName> = OutputOf<Table[N]['output']>;

export interface Behaviour<N extends OperationName> {
  /** The ARN the caller must be allowed to act on; absent: `*`. */
  resource?(input: Input<N>, rooms: Rooms): Promise<string> | string;
  run(input: Input<N>, rooms: Rooms, caller: Principal): Promise<Output<N>>;
}

/** A behaviour once its types have been checked against the table. */
export interface AnyBehaviour {
  resource?(input: unknown, rooms: Rooms): Promise<string> | string;
  run(input: unknown, rooms: Rooms, caller: Principal): Promise<Readonly<Record<string, unknown>>>;
}

/** Ties a behaviour to the table's types of its operation. */
export function behaviour<N extends OperationName>(_name: N, definition: Behaviour<N>): AnyBehaviour {
  return definition as AnyBehaviour;
}
