import { behaviour } from '../operation.ts';
import { versionAnswer } from './version-answer.ts';

export const getMicrovmImageVersion = behaviour('GetMicrovmImageVersion', {
  resource: ({ imageIdentifier }) => imageIdentifier,
  run: async ({ imageIdentifier, imageVersion }, { images }) =>
    versionAnswer(await images.getVersion(imageIdentifier, imageVersion)),
});
