/**
 * What a machine may reach beyond itself, in the words the gateway enforces (`gateway/policy`). The connectors room makes
 * it from connectors; nothing here knows connectors.
 *
 * Invariant: what no rule allows is refused. A policy that allows nothing leaves the NIC's link down.
 */

/** Inclusive. */
export type PortRange = readonly [from: number, to: number];

export type EgressRule =
  /** Public unicast addresses: no loopback, link-local, metadata, private, CGNAT, multicast or host address. */
  | {
      readonly id: string;
      readonly kind: 'internet';
      readonly protocols: readonly EgressProtocol[];
      /** Absent: all. */
      readonly ports?: readonly PortRange[];
    }
  /** Addresses an operator named; the only way to what is not public. */
  | {
      readonly id: string;
      readonly kind: 'cidr';
      readonly cidr: string;
      readonly protocols: readonly EgressProtocol[];
      readonly ports: readonly PortRange[];
    }
  /**
   * A name, or with `*.` in front every name below it. Connections go only to addresses the gateway resolved for it, while
   * that answer lives; `tls` and `http` must carry the name, `opaque` is not looked into.
   */
  | {
      readonly id: string;
      readonly kind: 'domain';
      readonly name: string;
      readonly ports: readonly PortRange[];
      readonly content: 'tls-or-http' | 'opaque';
      /** Operator's addresses the name may resolve to besides public ones. */
      readonly within?: readonly string[];
    };

export type EgressProtocol = 'tcp' | 'udp' | 'icmp';

export interface EgressPolicy {
  readonly rules: readonly EgressRule[];
  /** `open`: any name. `listed`: names of domain rules only. `off`: none. */
  readonly dns: 'open' | 'listed' | 'off';
}

/** Per microVM; the gateway has defaults for what is left out. */
export interface EgressLimits {
  readonly connections?: number;
  readonly newConnectionsPerSecond?: number;
  readonly bytesPerSecondOut?: number;
  readonly bytesPerSecondIn?: number;
  readonly queriesPerSecond?: number;
}

export const NO_EGRESS: EgressPolicy = { rules: [], dns: 'off' };

/** Who is answerable for a machine's traffic. */
export interface EgressLabels {
  readonly principal: string;
  readonly imageArn: string;
  readonly imageVersion: string;
}

/** What a machine is attached to the gateway with. `labels` go into every record of its flows. */
export interface Egress {
  readonly policy: EgressPolicy;
  readonly limits?: EgressLimits;
  readonly labels: EgressLabels;
}

/** One line of the flow log: `spec/gateway-protocol.md` §4. `at` is the ISO time of the end. */
export type FlowRecord = EgressLabels & {
  readonly at: string;
  readonly guest: string;
} & (
    | (Judged & {
        readonly kind: 'flow';
        readonly protocol: EgressProtocol;
        /** `address:port`. */
        readonly to: string;
        /** The name whose answer led there, where one did. */
        readonly name: string | null;
        readonly bytesOut: number;
        readonly bytesIn: number;
        readonly durationMs: number;
      })
    | (Judged & {
        readonly kind: 'dns';
        readonly name: string;
        readonly type: string;
        readonly answers: readonly string[];
        readonly durationMs: number;
      })
    | { readonly kind: 'drop'; readonly what: string; readonly count: number }
    | { readonly kind: 'suppressed'; readonly count: number }
  );

interface Judged {
  readonly verdict: 'allowed' | 'refused';
  /** Id of the rule that decided. */
  readonly rule: string | null;
  readonly reason: string | null;
}
