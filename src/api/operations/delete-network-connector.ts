import { behaviour } from '../operation.ts';
import { arnOfConnector } from './connector-resource.ts';

export const deleteNetworkConnector = behaviour('DeleteNetworkConnector', {
  resource: arnOfConnector,
  run: ({ Identifier }, { connectors }) => connectors.delete(Identifier),
});
