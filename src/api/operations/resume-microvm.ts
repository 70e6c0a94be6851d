import { behaviour } from '../operation.ts';
import { imageOfMicrovm } from './microvm-resource.ts';

export const resumeMicrovm = behaviour('ResumeMicrovm', {
  resource: imageOfMicrovm,
  run: async ({ microvmIdentifier }, { microvms }) => {
    await microvms.resume(microvmIdentifier);
    return {};
  },
});
