/** What the operator says about the host's network; what is left out is found by the gateway itself. */
export interface NetworkSettings {
  /** DNS servers to ask, `address:port`; default: those of the host's resolv.conf. */
  readonly upstreams?: readonly string[];
  /** CIDRs that count as internet though they are not public. */
  readonly reachable?: readonly string[];
  /** Refused always, besides those of the host's interfaces. */
  readonly hostAddresses?: readonly string[];
}
