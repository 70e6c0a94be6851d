/**
 * Who calls and what the request says of itself for policies, and the refusal in IAM's words.
 *
 * Source of the words: recorded refusals; the part behind the resource is IAM's common wording.
 */
import type { IncomingMessage } from 'node:http';
import type { Context, Identity, Principal } from '../identity/index.ts';
import { DomainError } from '../lib/index.ts';

export interface Caller {
  readonly principal: Principal;
  /** What the connection and the headers say; each demand adds what it is about. */
  readonly context: Context;
}

/** One thing that has to be allowed. */
export interface Demand {
  /** `lambda:RunMicrovm` */
  readonly action: string;
  /** An ARN, or `*`; undefined for a resource that does not exist. */
  readonly resource: string | undefined;
  readonly context?: Context;
}

export function callerOf(request: IncomingMessage, principal: Principal, region: string): Caller {
  const { remoteAddress } = request.socket;
  const { 'user-agent': userAgent, referer } = request.headers;
  const context: Context = {
    'aws:RequestedRegion': region,
    'aws:SecureTransport': 'encrypted' in request.socket ? 'true' : 'false',
    ...(remoteAddress !== undefined && { 'aws:SourceIp': remoteAddress.replace(/^::ffff:/, '') }),
    ...(userAgent !== undefined && { 'aws:UserAgent': userAgent }),
    ...(referer !== undefined && { 'aws:Referer': referer }),
  };
  return { principal, context };
}

/** @throws DomainError DENIED */
export function demand(identity: Identity, { principal, context }: Caller, wanted: Demand): void {
  const { action, resource } = wanted;
  const decision = identity.authorize(principal, action, resource, { ...context, ...wanted.context });
  if (!decision.allowed) throw accessDenied(principal, action, resource ?? '*', decision.because);
}

/** `because` left out: nothing allows it. */
export function accessDenied(
  principal: Principal,
  action: string,
  resource: string,
  because = `because no identity-based policy allows the ${action} action`,
  options: { cause?: unknown } = {},
): DomainError {
  const message = `User: ${principal.arn} is not authorized to perform: ${action} on resource: ${resource} ${because}`;
  return new DomainError('DENIED', message, options);
}
