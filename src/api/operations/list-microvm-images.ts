import { behaviour } from '../operation.ts';

export const listMicrovmImages = behaviour('ListMicrovmImages', {
  run: (input, { images }) => images.list(input),
});
