import { behaviour } from '../operation.ts';

export const deleteMicrovmImage = behaviour('DeleteMicrovmImage', {
  resource: ({ imageIdentifier }) => imageIdentifier,
  run: ({ imageIdentifier }, { images }) => images.delete(imageIdentifier),
});
