import { behaviour } from '../operation.ts';

export const listManagedMicrovmImages = behaviour('ListManagedMicrovmImages', {
  run: (input, { images }) => images.managed.list(input),
});
