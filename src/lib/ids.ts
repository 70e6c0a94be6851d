import { randomBytes, randomUUID } from 'node:crypto';

/** The one source of randomness. */
export interface Ids {
  uuid(): string;
  bytes(length: number): Buffer;
}

export const randomIds: Ids = {
  uuid: () => randomUUID(),
  bytes: (length) => randomBytes(length),
};
