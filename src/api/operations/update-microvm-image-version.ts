import { behaviour } from '../operation.ts';
import { versionAnswer } from './version-answer.ts';

export const updateMicrovmImageVersion = behaviour('UpdateMicrovmImageVersion', {
  resource: ({ imageIdentifier }) => imageIdentifier,
  run: async ({ imageIdentifier, imageVersion, status }, { images }) =>
    versionAnswer(await images.updateVersion(imageIdentifier, imageVersion, status)),
});
