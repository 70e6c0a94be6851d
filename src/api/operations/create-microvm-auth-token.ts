import { behaviour } from '../operation.ts';
import { imageOfMicrovm } from './microvm-resource.ts';

export const createMicrovmAuthToken = behaviour('CreateMicrovmAuthToken', {
  resource: imageOfMicrovm,
  run: async (input, { microvms }) => ({ authToken: { 'X-aws-proxy-auth': await microvms.createAuthToken(input) } }),
});
