/** The ingress room's door: the microVMs' HTTPS endpoints. */
export { createIngress, type Ingress, type IngressOptions, type Traffic } from './ingress.ts';
