import { behaviour } from '../operation.ts';
import { imageOfMicrovm } from './microvm-resource.ts';

export const suspendMicrovm = behaviour('SuspendMicrovm', {
  resource: imageOfMicrovm,
  run: async ({ microvmIdentifier }, { microvms }) => {
    await microvms.suspend(microvmIdentifier);
    return {};
  },
});
