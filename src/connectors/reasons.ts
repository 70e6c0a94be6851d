/** Why a connector is not, or not any more, what it was asked to be. Codes are the model's. */

export const REASON_CODES = [
  'DisallowedByVpcEncryptionControl',
  'Ec2RequestLimitExceeded',
  'InsufficientRolePermissions',
  'InternalError',
  'InvalidSecurityGroup',
  'InvalidSubnet',
  'SubnetOutOfIPAddresses',
] as const;
export type ReasonCode = (typeof REASON_CODES)[number];

export interface Reason {
  readonly code: ReasonCode;
  /** A sentence of our own. GUESS: connector-reason-texts */
  readonly text: string;
}

export function isReasonCode(text: string): text is ReasonCode {
  return REASON_CODES.some((known) => known === text);
}
