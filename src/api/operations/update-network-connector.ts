import { behaviour } from '../operation.ts';
import { arnOfConnector } from './connector-resource.ts';

export const updateNetworkConnector = behaviour('UpdateNetworkConnector', {
  resource: arnOfConnector,
  run: (input, { connectors }) => connectors.update(input),
});
