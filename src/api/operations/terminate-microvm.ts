import { behaviour } from '../operation.ts';
import { imageOfMicrovm } from './microvm-resource.ts';

export const terminateMicrovm = behaviour('TerminateMicrovm', {
  resource: imageOfMicrovm,
  run: async ({ microvmIdentifier }, { microvms }) => {
    await microvms.terminate(microvmIdentifier);
    return {};
  },
});
