import { behaviour } from '../operation.ts';

export const deleteMicrovmImageVersion = behaviour('DeleteMicrovmImageVersion', {
  resource: ({ imageIdentifier }) => imageIdentifier,
  run: ({ imageIdentifier, imageVersion }, { images }) => images.deleteVersion(imageIdentifier, imageVersion),
});
