/**
 * The wire of `lambda-core` (2026-04-30): the five network connector operations, restJson1, signed as `lambda`.
 *
 * After the service's public model, checked against it by `model.test.ts`. Unlike `lambda-microvms` it leaves absent
 * members out (recorded).
 */
import {
  integer,
  isoTimestamp,
  list,
  long,
  map,
  oneOf,
  optional,
  path,
  query,
  required,
  type Service,
  string,
  structure,
  union,
} from './shape.ts';

const text = string({});
const arnPattern =
  'arn:aws[a-zA-Z-]*:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{1}:\\d{12}:network-connector:[a-zA-Z0-9-_]+(:[1-9]|[1-9][0-9]+)?';
const arn = string({ min: 1, max: 140, pattern: `(${arnPattern})` });
const name = string({ min: 1, max: 140, pattern: `(${arnPattern})|[a-zA-Z0-9_-]{1,64}` });
const id = string({ min: 1, max: 140 });
const operatorRole = string({
  min: 0,
  max: 10000,
  pattern: 'arn:(aws[a-zA-Z-]*)?:iam::\\d{12}:role/?[a-zA-Z_0-9+=,.@\\-_/]+',
});
const clientToken = string({ min: 1, max: 64 });
const state = oneOf('PENDING', 'ACTIVE', 'INACTIVE', 'FAILED', 'DELETING', 'DELETE_FAILED');
const updateStatus = oneOf('Successful', 'Failed', 'InProgress');
const reasonCode = oneOf(
  'DisallowedByVpcEncryptionControl',
  'Ec2RequestLimitExceeded',
  'InsufficientRolePermissions',
  'InternalError',
  'InvalidSecurityGroup',
  'InvalidSubnet',
  'SubnetOutOfIPAddresses',
);
const throttleReason = oneOf(
  'ConcurrentInvocationLimitExceeded',
  'FunctionInvocationRateLimitExceeded',
  'ReservedFunctionConcurrentInvocationLimitExceeded',
  'ReservedFunctionInvocationRateLimitExceeded',
  'CallerRateLimitExceeded',
  'ConcurrentSnapshotCreateLimitExceeded',
);
const tagText = '([\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*)';
const tags = map(string({ min: 1, max: 128, pattern: tagText }), string({ min: 0, max: 256, pattern: tagText }));
const configuration = union({
  VpcEgressConfiguration: optional(
    structure({
      SubnetIds: optional(list(string({ min: 0, max: 1024, pattern: 'subnet-[0-9a-z]*' }), { min: 1, max: 16 })),
      SecurityGroupIds: optional(list(string({ min: 0, max: 1024, pattern: 'sg-[0-9a-zA-Z]*' }), { min: 0, max: 5 })),
      NetworkProtocol: optional(oneOf('IPv4', 'DualStack')),
      AssociatedComputeResourceTypes: optional(list(oneOf('MicroVm'), { min: 1, max: 1 })),
    }),
  ),
});

const identity = { Arn: required(arn), Name: required(name), Id: required(id) } as const;
const connector = {
  ...identity,
  Configuration: optional(configuration),
  OperatorRole: optional(operatorRole),
  State: optional(state),
} as const;

const listErrors = ['InvalidParameterValueException', 'ServiceException', 'TooManyRequestsException'] as const;
const readErrors = [...listErrors, 'ResourceNotFoundException'] as const;
const changeErrors = [...readErrors, 'ResourceConflictException'] as const;

const connectors = '/2026-04-04/network-connectors';
const onConnector = { Identifier: path(id) } as const;

export const operations = {
  CreateNetworkConnector: {
    method: 'POST',
    uri: connectors,
    status: 202,
    input: {
      Name: required(name),
      Configuration: required(configuration),
      OperatorRole: optional(operatorRole),
      ClientToken: optional(clientToken),
      Tags: optional(tags),
    },
    output: connector,
    errors: [...listErrors, 'ResourceConflictException', 'NetworkConnectorLimitExceededException'],
  },
  GetNetworkConnector: {
    method: 'GET',
    uri: `${connectors}/{Identifier}`,
    status: 200,
    input: onConnector,
    output: {
      ...connector,
      Version: optional(long({ min: 0 })),
      StateReason: optional(text),
      StateReasonCode: optional(reasonCode),
      LastUpdateStatus: optional(updateStatus),
      LastUpdateStatusReason: optional(text),
      LastUpdateStatusReasonCode: optional(reasonCode),
      LastModified: optional(isoTimestamp),
    },
    errors: readErrors,
  },
  ListNetworkConnectors: {
    method: 'GET',
    uri: connectors,
    status: 200,
    input: { State: query(state), Marker: query(text), MaxItems: query(integer({ min: 1, max: 100 })) },
    output: {
      NetworkConnectors: required(
        list(
          structure({
            ...identity,
            Type: required(oneOf('VPC_EGRESS')),
            State: optional(state),
            LastModified: optional(isoTimestamp),
          }),
          { min: 0, max: 50 },
        ),
      ),
      NextMarker: optional(text),
    },
    errors: listErrors,
  },
  UpdateNetworkConnector: {
    method: 'PUT',
    uri: `${connectors}/{Identifier}`,
    status: 202,
    input: {
      ...onConnector,
      Configuration: optional(configuration),
      OperatorRole: optional(operatorRole),
      ClientToken: optional(clientToken),
    },
    output: {
      ...connector,
      LastUpdateStatus: optional(updateStatus),
      LastUpdateStatusReason: optional(text),
      LastModified: optional(isoTimestamp),
    },
    errors: changeErrors,
  },
  DeleteNetworkConnector: {
    method: 'DELETE',
    uri: `${connectors}/{Identifier}`,
    status: 202,
    input: onConnector,
    output: connector,
    errors: changeErrors,
  },
} as const;

const typed = { Type: optional(text), message: optional(text) } as const;
const typedCapital = { Type: optional(text), Message: optional(text) } as const;

export const lambdaCore = {
  signingName: 'lambda',
  writesNulls: false,
  operations,
  errors: {
    InvalidParameterValueException: { status: 400, members: typed },
    NetworkConnectorLimitExceededException: { status: 400, members: typed },
    ResourceConflictException: { status: 409, members: typed },
    ResourceNotFoundException: { status: 404, members: typedCapital },
    ServiceException: { status: 500, members: typedCapital },
    TooManyRequestsException: {
      status: 429,
      members: {
        retryAfterSeconds: { shape: text, required: false, in: 'header', wire: 'Retry-After' },
        ...typed,
        Reason: optional(throttleReason),
      },
    },
  },
} as const satisfies Service;
