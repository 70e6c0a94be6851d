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
