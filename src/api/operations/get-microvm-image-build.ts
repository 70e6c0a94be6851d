import { behaviour } from '../operation.ts';

export const getMicrovmImageBuild = behaviour('GetMicrovmImageBuild', {
  resource: ({ imageIdentifier }) => imageIdentifier,
  run: ({ imageIdentifier, imageVersion, buildId }, { images }) =>
    images.getBuild(imageIdentifier, imageVersion, buildId),
});
