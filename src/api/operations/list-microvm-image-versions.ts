import { behaviour } from '../operation.ts';
import { versionAnswer } from './version-answer.ts';

export const listMicrovmImageVersions = behaviour('ListMicrovmImageVersions', {
  resource: ({ imageIdentifier }) => imageIdentifier,
  run: async ({ imageIdentifier, ...request }, { images }) => {
    const { items, nextToken } = await images.listVersions(imageIdentifier, request);
    return { items: items.map(versionAnswer), nextToken };
  },
});
