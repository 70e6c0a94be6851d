import { behaviour } from '../operation.ts';

export const listMicrovms = behaviour('ListMicrovms', {
  run: (input, { microvms }) => microvms.list(input),
});
