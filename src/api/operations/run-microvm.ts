import { behaviour } from '../operation.ts';

export const runMicrovm = behaviour('RunMicrovm', {
  resource: ({ imageIdentifier }) => imageIdentifier,
  run: (input, { microvms }) => microvms.run(input),
});
