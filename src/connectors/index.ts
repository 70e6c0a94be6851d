/** The connectors room's door: managed connectors, customers' ones, what a list of them comes to, and the operator's networks. */

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
export { fixedNetworks, type Networks, type NetworksOptions, openNetworks } from './networks.ts';
export { gatewaySettingsOf, type NetworkPlan, NOWHERE, parseNetworks } from './networks-file.ts';
export { type IngressPolicy, ingressPolicy, resolveEgress, resolveIngress } from './selection.ts';
export type * from './types.ts';
