/** The microvms room's door: the microVM record, its lifecycle and what drives machines towards it. */
export { createMicrovms, type MicrovmsOptions } from './microvms.ts';
export type * from './types.ts';
