import { behaviour } from '../operation.ts';

export const runMicrovm = behaviour('RunMicrovm', {
  resource: ({ imageIdentifier }) => imageIdentifier,
  run: (input, { microvms }, { arn }) => microvms.run({ ...input, principal: arn }),
});
