import { behaviour } from '../operation.ts';

/** Writes the image and its first version and begins building; authorised on `*`, not on the future image. */
export const createMicrovmImage = behaviour('CreateMicrovmImage', {
  run: (input, { images }, { arn }) => images.create({ ...input, principal: arn }),
});
