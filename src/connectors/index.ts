/** The connectors room's door: managed connectors, customers' ones, and what a list of them comes to. */
export { type ConnectorsOptions, createConnectors } from './connectors.ts';
export {
  type Connector,
  EGRESS_CONNECTORS,
  type EgressConnectorName,
  INGRESS_CONNECTORS,
  type IngressConnectorName,
  type ManagedConnectorName,
  managedConnectorArn,
  parseConnectorArn,
} from './managed.ts';
export { type IngressPolicy, ingressPolicy, resolveEgress, resolveIngress } from './selection.ts';
export type * from './types.ts';
