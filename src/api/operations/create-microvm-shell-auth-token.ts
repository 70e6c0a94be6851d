import { behaviour } from '../operation.ts';
import { imageOfMicrovm } from './microvm-resource.ts';

export const createMicrovmShellAuthToken = behaviour('CreateMicrovmShellAuthToken', {
  resource: imageOfMicrovm,
  run: async (input, { microvms }) => ({
    authToken: { 'X-aws-proxy-auth': await microvms.createShellAuthToken(input) },
  }),
});
