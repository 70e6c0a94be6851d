import { behaviour } from '../operation.ts';

export const listManagedMicrovmImageVersions = behaviour('ListManagedMicrovmImageVersions', {
  run: ({ imageIdentifier, ...request }, { images }) => images.managed.listVersions(imageIdentifier, request),
});
