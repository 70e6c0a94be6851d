/**
 * What other rooms see of customers' network connectors. Wire spelling of members is kept (capitals in this API); instants
 * are milliseconds since the epoch; what is absent here is absent on the wire.
 */
import type { EgressLimits, EgressPolicy } from '../engine/index.ts';
import type { Tags } from '../lib/index.ts';
import type { Page } from '../store/index.ts';
import type { DomainView } from './domains.ts';
import type { ConnectorState } from './lifecycle.ts';
import type { ReasonCode } from './reasons.ts';

export interface VpcEgressConfiguration {
  readonly SubnetIds?: readonly string[];
  readonly SecurityGroupIds?: readonly string[];
  readonly NetworkProtocol?: 'IPv4' | 'DualStack';
  readonly AssociatedComputeResourceTypes?: readonly 'MicroVm'[];
}

export interface ConnectorConfiguration {
  readonly VpcEgressConfiguration: VpcEgressConfiguration;
}

/** CreateNetworkConnector as the wire layer passes it on, constraint layer already applied. */
export interface CreateConnectorInput {
  readonly Name: string;
  readonly Configuration: ConnectorConfiguration;
  readonly OperatorRole?: string;
  readonly ClientToken?: string;
  readonly Tags?: Tags;
}

/** UpdateNetworkConnector: what is absent stays; a configuration replaces the old one whole. */
export interface UpdateConnectorInput {
  readonly Identifier: string;
  readonly Configuration?: ConnectorConfiguration;
  readonly OperatorRole?: string;
  readonly ClientToken?: string;
}

/** Item of ListNetworkConnectors. */
export interface ConnectorSummary {
  readonly Arn: string;
  readonly Id: string;
  readonly Name: string;
  readonly Type: 'VPC_EGRESS';
  readonly State: ConnectorState;
  readonly LastModified: number;
}

/** The union of what the operations answer; the wire's tables say which shows what. */
export interface ConnectorView {
  readonly Arn: string;
  readonly Id: string;
  readonly Name: string;
  readonly State: ConnectorState;
  readonly Configuration: ConnectorConfiguration;
  readonly OperatorRole: string;
  readonly LastModified?: number;
  readonly StateReason?: string;
  readonly StateReasonCode?: ReasonCode;
  readonly LastUpdateStatus?: 'InProgress' | 'Successful' | 'Failed';
  readonly LastUpdateStatusReason?: string;
  readonly LastUpdateStatusReasonCode?: ReasonCode;
}

/** What egress there is where no connector is named, and whether the managed INTERNET_EGRESS may be. */
export interface EgressDefaults {
  readonly implicit: 'internet' | 'none';
  readonly internet: 'allow' | 'refuse';
}

/** The domain list of a connector; null: it has none, and leads wherever its networks lead. */
export interface DomainListView {
  readonly Arn: string;
  readonly Name: string;
  readonly domains: readonly DomainView[] | null;
}

export interface Connectors extends AsyncDisposable {
  /** Takes up what time has brought meanwhile. Once, before the first call. */
  start(): Promise<void>;
  /** @throws DomainError INVALID, CONFLICT (name in use, client token with other parameters), QUOTA */
  create(input: CreateConnectorInput): Promise<ConnectorView>;
  /** By id, name or ARN, as below. @throws DomainError NOT_FOUND */
  get(identifier: string): Promise<ConnectorView>;
  list(request: {
    readonly state?: string;
    readonly maxResults?: number;
    readonly nextToken?: string;
  }): Promise<Page<ConnectorSummary>>;
  /** @throws DomainError INVALID, NOT_FOUND, CONFLICT (not ACTIVE, or an update is under way) */
  update(input: UpdateConnectorInput): Promise<ConnectorView>;
  /** Makes it DELETING, and a while later gone, or DELETE_FAILED while microVMs use it. @throws DomainError NOT_FOUND */
  delete(identifier: string): Promise<ConnectorView>;
  /** @throws DomainError NOT_FOUND */
  tags(identifier: string): Promise<Tags>;
  /** Adds to the tags there are. @throws DomainError NOT_FOUND, INVALID */
  tag(identifier: string, tags: Tags): Promise<void>;
  /** @throws DomainError NOT_FOUND */
  untag(identifier: string, keys: readonly string[]): Promise<void>;
  /**
   * Every customer connector of an effective list exists and is ACTIVE; managed ones always are.
   * @throws DomainError NOT_FOUND, INVALID
   */
  requireActive(arns: readonly string[]): Promise<void>;
  /** What this server gives to lists without connectors; may change while it runs. */
  egressDefaults(): EgressDefaults;
  /**
   * What an effective list allows now: the union of its connectors. One that has gone, or whose networks have, adds nothing.
   */
  egress(arns: readonly string[]): Promise<{ readonly policy: EgressPolicy; readonly limits: EgressLimits }>;
  /** Called after what some list allows may have changed, until the result is disposed. */
  onEgressChange(listener: () => void): Disposable;
  /** @throws DomainError NOT_FOUND */
  domains(identifier: string): Promise<DomainListView>;
  /**
   * Narrows the connector to these names (`parseDomains` says their form); null takes the list away. Takes effect at once.
   * @throws DomainError NOT_FOUND, INVALID, CONFLICT (the connector is going or has failed)
   */
  setDomains(identifier: string, domains: unknown): Promise<DomainListView>;
}
