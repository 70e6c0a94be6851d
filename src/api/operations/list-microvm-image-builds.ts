import { behaviour } from '../operation.ts';

export const listMicrovmImageBuilds = behaviour('ListMicrovmImageBuilds', {
  resource: ({ imageIdentifier }) => imageIdentifier,
  run: ({ imageIdentifier, imageVersion, ...request }, { images }) =>
    images.listBuilds(imageIdentifier, imageVersion, request),
});
