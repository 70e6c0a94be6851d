import { behaviour } from '../operation.ts';

export const createNetworkConnector = behaviour('CreateNetworkConnector', {
  run: (input, { connectors }) => connectors.create(input),
});
