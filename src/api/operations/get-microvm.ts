import { behaviour } from '../operation.ts';
import { imageOfMicrovm } from './microvm-resource.ts';

export const getMicrovm = behaviour('GetMicrovm', {
  resource: imageOfMicrovm,
  run: ({ microvmIdentifier }, { microvms }) => microvms.get(microvmIdentifier),
});
