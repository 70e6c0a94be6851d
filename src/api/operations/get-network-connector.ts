import { behaviour } from '../operation.ts';
import { arnOfConnector } from './connector-resource.ts';

export const getNetworkConnector = behaviour('GetNetworkConnector', {
  resource: arnOfConnector,
  run: ({ Identifier }, { connectors }) => connectors.get(Identifier),
});
