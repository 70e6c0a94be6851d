/**
 * What each refusal of the domain is called on the wire, per family of operations, and everything else's 500.
 *
 * Invariant: an operation answers no error its table does not list, besides those of the protocol itself (signature,
 * reading, constraint layer).
 */
import type { ErrorShape, Operation, Service } from '../../spec/shape.ts';
import { DomainError, type DomainErrorCode } from '../lib/index.ts';
import type { SignatureRefusal } from './sigv4.ts';
import { WireError } from './wire-error.ts';
import { writeOutput } from './write-output.ts';

export type Family = 'microvms' | 'tags' | 'connectors';

const NAMES: Readonly<Record<Family, Readonly<Record<DomainErrorCode | 'BUG', string>>>> = {
  microvms: {
    NOT_FOUND: 'ResourceNotFoundException',
    CONFLICT: 'ConflictException',
    INVALID: 'ValidationException',
    DENIED: 'AccessDeniedException',
    QUOTA: 'ServiceQuotaExceededException',
    CAPACITY: 'InsufficientCapacityException',
    THROTTLED: 'ThrottlingException',
    BUG: 'InternalServerException',
  },
  tags: {
    NOT_FOUND: 'ResourceNotFoundException',
    CONFLICT: 'ResourceConflictException',
    INVALID: 'ValidationException',
    DENIED: 'AccessDeniedException',
    QUOTA: 'InvalidParameterValueException',
    CAPACITY: 'ServiceException',
    THROTTLED: 'TooManyRequestsException',
    BUG: 'InternalServerException',
  },
  connectors: {
    NOT_FOUND: 'ResourceNotFoundException',
    CONFLICT: 'ResourceConflictException',
    INVALID: 'InvalidParameterValueException',
    DENIED: 'AccessDeniedException',
    QUOTA: 'NetworkConnectorLimitExceededException',
    CAPACITY: 'ServiceException',
    THROTTLED: 'TooManyRequestsException',
    BUG: 'ServiceException',
  },
};

/** Answered by the layers around every operation, listed by a table or not (recorded for connectors). */
const PROTOCOL_ERRORS: Readonly<Record<string, ErrorShape>> = {
  AccessDeniedException: {
    status: 403,
    members: { message: { shape: { kind: 'string' }, required: false, in: 'body' } },
  },
};

/** The family whose names an operation's errors take. */
export function familyOf(operation: Operation): Family {
  if (operation.uri.startsWith('/2017-03-31/tags/')) return 'tags';
  return operation.uri.startsWith('/2026-04-04/') ? 'connectors' : 'microvms';
}

/** The wire form of whatever an operation threw. `isBug` says that it was no refusal and belongs in the log. */
export function toWireError(
  thrown: unknown,
  context: { service: Service; operation: Operation; requestId: string },
): { error: WireError; isBug: boolean } {
  const names = NAMES[familyOf(context.operation)];
  if (thrown instanceof WireError) return { error: thrown, isBug: false };
  if (thrown instanceof DomainError) {
    const details = thrown.code === 'THROTTLED' ? { retryAfterSeconds: 1, ...thrown.details } : thrown.details;
    const error = modelledError(context, names[thrown.code], thrown.message, details);
    if (error !== undefined) return { error, isBug: false };
  }
  const message = `Internal server error; the server's log tells more under request id ${context.requestId}.`;
  const error = modelledError(context, names.BUG, message, {});
  return { error: error ?? new WireError(names.BUG, 500, { message }), isBug: true };
}

/** An error by the table's shape; undefined when the operation does not list it. */
export function modelledError(
  context: { service: Service; operation: Operation },
  type: string,
  message: string | null,
  details: Readonly<Record<string, string | number | null>>,
): WireError | undefined {
  const listed = context.operation.errors.includes(type) ? context.service.errors[type] : undefined;
  const shape = listed ?? PROTOCOL_ERRORS[type];
  if (shape === undefined) return undefined;
  // The connectors' bodies hold no Type, modelled as it is (recorded).
  const fault = context.service.writesNulls ? { Type: shape.status < 500 ? 'User' : 'Service' } : {};
  const values = { ...details, ...fault, message, Message: message };
  const inBody = Object.fromEntries(Object.entries(shape.members).filter(([, member]) => member.in === 'body'));
  const retryAfter = details.retryAfterSeconds;
  // Tags' throttle has no such member; the header is HTTP's own and tells every client.
  const takesRetryAfter =
    (Object.hasOwn(shape.members, 'retryAfterSeconds') || shape.status === 429) && retryAfter != null;
  return new WireError(type, shape.status, writeOutput(inBody, values, context.service), {
    headers: takesRetryAfter ? { 'Retry-After': String(retryAfter) } : {},
  });
}

/** Wordings as AWS's services commonly answer; this service's own are not recorded. GUESS: signature-errors */
export function signatureWireError(refusal: SignatureRefusal): WireError {
  const error = (type: string, message: string) => new WireError(type, 403, { message });
  switch (refusal.kind) {
    case 'missing':
      return error('MissingAuthenticationTokenException', 'Missing Authentication Token');
    case 'malformed':
      return error('IncompleteSignatureException', `The request signature cannot be read: ${refusal.detail}`);
    case 'scope':
    case 'skewed':
      return error('InvalidSignatureException', refusal.detail);
    case 'unknown-key':
    case 'bad-token':
      return error('UnrecognizedClientException', 'The security token included in the request is invalid.');
    case 'expired-token':
    case 'expired-url':
      return error('ExpiredTokenException', 'The security token included in the request is expired');
    case 'mismatch':
      return error(
        'InvalidSignatureException',
        'The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.',
      );
    default:
      return refusal satisfies never;
  }
}
