import { behaviour } from '../operation.ts';

export const getMicrovmImage = behaviour('GetMicrovmImage', {
  resource: ({ imageIdentifier }) => imageIdentifier,
  run: ({ imageIdentifier }, { images }) => images.get(imageIdentifier),
});
