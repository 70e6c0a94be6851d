import { behaviour } from '../operation.ts';

/** Writes the next version in full and begins building it. */
export const updateMicrovmImage = behaviour('UpdateMicrovmImage', {
  resource: ({ imageIdentifier }) => imageIdentifier,
  run: (input, { images }) => images.update(input),
});
