import { behaviour } from '../operation.ts';

/** Writes the next version in full and begins building it. */
export const updateMicrovmImage = behaviour('UpdateMicrovmImage', {
  resource: ({ imageIdentifier }) => imageIdentifier,
  run: (input, { images }, { arn }) => images.update({ ...input, principal: arn }),
});
