/**
 * The wire of `lambda-microvms` (2025-09-09): 24 operations, restJson1, signed as `lambda`.
 *
 * Members, limits, patterns and errors after the service's public model, checked against it by `model.test.ts`; members
 * marked unmodelled and the order of required members after recordings of the live service (July-September 2026).
 */
import {
  architecture,
  build,
  chipset,
  clientToken,
  configuration,
  connectors,
  idlePolicy,
  imageIdentifier,
  imageName,
  imageState,
  imageSummary,
  imageWithConfiguration,
  logging,
  managedImage,
  managedStatus,
  microvm,
  microvmIdentifier,
  microvmItem,
  nonBlank,
  pageSize,
  portSpecification,
  roleArn,
  taggable,
  tagKey,
  tags,
  text,
  tokenParts,
  version,
  versionState,
  versionStatus,
} from './lambda-microvms-shapes.ts';
import {
  epochSeconds,
  integer,
  list,
  long,
  optional,
  path,
  query,
  required,
  type Service,
  string,
  structure,
} from './shape.ts';

const paging = { maxResults: query(pageSize), nextToken: query(text) } as const;
const onImage = { imageIdentifier: path(imageIdentifier) } as const;
const onVersion = { ...onImage, imageVersion: path(nonBlank) } as const;
const onMicrovm = { microvmIdentifier: path(microvmIdentifier) } as const;
const page = <const S extends Parameters<typeof list>[0]>(items: S) =>
  ({ nextToken: optional(text), items: required(list(items)) }) as const;

const readErrors = [
  'InternalServerException',
  'AccessDeniedException',
  'ResourceNotFoundException',
  'ThrottlingException',
  'ValidationException',
] as const;
const listErrors = [
  'InternalServerException',
  'AccessDeniedException',
  'ThrottlingException',
  'ValidationException',
] as const;
const changeErrors = [...readErrors, 'ConflictException'] as const;
const buildErrors = [...changeErrors, 'ServiceQuotaExceededException'] as const;
const runErrors = [...buildErrors, 'InsufficientCapacityException'] as const;
const tagReadErrors = [
  ...readErrors,
  'TooManyRequestsException',
  'ServiceException',
  'InvalidParameterValueException',
] as const;
const tagChangeErrors = [...tagReadErrors, 'ResourceConflictException'] as const;

const images = '/2025-09-09/microvm-images';
const managedImages = '/2025-09-09/managed-microvm-images';
const microvms = '/2025-09-09/microvms';

export const operations = {
  CreateMicrovmImage: {
    method: 'POST',
    uri: images,
    status: 201,
    input: {
      ...configuration,
      name: required(imageName),
      tags: optional(tags),
      clientToken: optional(clientToken),
    },
    output: { ...imageWithConfiguration, tags: optional(tags), updatedAt: optional(epochSeconds) },
    errors: buildErrors,
  },
  UpdateMicrovmImage: {
    method: 'PUT',
    uri: `${images}/{imageIdentifier}`,
    status: 200,
    input: { ...onImage, ...configuration, clientToken: optional(clientToken) },
    output: { ...imageWithConfiguration, updatedAt: required(epochSeconds) },
    errors: buildErrors,
  },
  GetMicrovmImage: {
    method: 'GET',
    uri: `${images}/{imageIdentifier}`,
    status: 200,
    input: onImage,
    output: { ...imageSummary, updatedAt: optional(epochSeconds), tags: optional(tags) },
    errors: readErrors,
  },
  ListMicrovmImages: {
    method: 'GET',
    uri: images,
    status: 200,
    input: { ...paging, nameFilter: query(nonBlank) },
    output: page(structure(imageSummary)),
    errors: listErrors,
  },
  DeleteMicrovmImage: {
    method: 'DELETE',
    uri: `${images}/{imageIdentifier}`,
    status: 200,
    input: onImage,
    output: { imageIdentifier: required(imageIdentifier), state: required(imageState) },
    errors: changeErrors,
  },
  GetMicrovmImageVersion: {
    method: 'GET',
    uri: `${images}/{imageIdentifier}/versions/{imageVersion}`,
    status: 200,
    input: onVersion,
    output: version,
    errors: readErrors,
  },
  ListMicrovmImageVersions: {
    method: 'GET',
    uri: `${images}/{imageIdentifier}/versions`,
    status: 200,
    input: { ...paging, ...onImage },
    output: page(structure(version)),
    errors: readErrors,
  },
  UpdateMicrovmImageVersion: {
    method: 'PATCH',
    uri: `${images}/{imageIdentifier}/versions/{imageVersion}`,
    status: 200,
    input: { ...onVersion, status: required(versionStatus) },
    output: version,
    errors: changeErrors,
  },
  DeleteMicrovmImageVersion: {
    method: 'DELETE',
    uri: `${images}/{imageIdentifier}/versions/{imageVersion}`,
    status: 200,
    input: onVersion,
    output: {
      imageIdentifier: required(imageIdentifier),
      imageVersion: required(nonBlank),
      state: required(versionState),
    },
    errors: changeErrors,
  },
  ListMicrovmImageBuilds: {
    method: 'GET',
    uri: `${images}/{imageIdentifier}/versions/{imageVersion}/builds`,
    status: 200,
    input: {
      ...paging,
      ...onVersion,
      architecture: query(architecture),
      chipset: query(chipset),
      chipsetGeneration: query(nonBlank),
    },
    output: page(structure(build)),
    errors: readErrors,
  },
  GetMicrovmImageBuild: {
    method: 'GET',
    uri: `${images}/{imageIdentifier}/versions/{imageVersion}/builds/{buildId}`,
    status: 200,
    input: { ...onVersion, buildId: path(nonBlank) },
    output: {
      ...build,
      snapshotBuild: optional(
        structure({
          memorySnapshotSizeInBytes: optional(long()),
          codeInstallSizeInBytes: optional(long()),
          diskSnapshotSizeInBytes: optional(long()),
        }),
      ),
    },
    errors: readErrors,
  },
  ListManagedMicrovmImages: {
    method: 'GET',
    uri: managedImages,
    status: 200,
    input: paging,
    output: page(structure(managedImage)),
    errors: listErrors,
  },
  ListManagedMicrovmImageVersions: {
    method: 'GET',
    uri: `${managedImages}/{imageIdentifier}/versions`,
    status: 200,
    input: { ...paging, ...onImage },
    output: page(structure({ ...managedImage, imageVersion: required(nonBlank), status: optional(managedStatus) })),
    errors: readErrors,
  },
  RunMicrovm: {
    method: 'POST',
    uri: microvms,
    status: 200,
    input: {
      ingressNetworkConnectors: optional(connectors),
      egressNetworkConnectors: optional(connectors),
      imageIdentifier: required(imageIdentifier),
      imageVersion: optional(nonBlank),
      executionRoleArn: optional(roleArn),
      idlePolicy: optional(idlePolicy),
      logging: optional(logging),
      // The model's text says 16 KB, its limit and measurements say 4096.
      runHookPayload: optional(string({ min: 0, max: 4096, sensitive: true })),
      maximumDurationInSeconds: optional(integer({ min: 1, max: 28800 })),
      clientToken: optional(clientToken),
    },
    output: microvm,
    errors: runErrors,
  },
  GetMicrovm: {
    method: 'GET',
    uri: `${microvms}/{microvmIdentifier}`,
    status: 200,
    input: onMicrovm,
    output: microvm,
    errors: readErrors,
  },
  ListMicrovms: {
    method: 'GET',
    uri: microvms,
    status: 200,
    input: { ...paging, imageIdentifier: query(imageIdentifier), imageVersion: query(text) },
    output: page(structure(microvmItem)),
    errors: readErrors,
  },
  SuspendMicrovm: {
    method: 'POST',
    uri: `${microvms}/{microvmIdentifier}/suspend`,
    status: 200,
    input: onMicrovm,
    output: {},
    errors: changeErrors,
  },
  ResumeMicrovm: {
    method: 'POST',
    uri: `${microvms}/{microvmIdentifier}/resume`,
    status: 200,
    input: onMicrovm,
    output: {},
    errors: changeErrors,
  },
  TerminateMicrovm: {
    method: 'DELETE',
    uri: `${microvms}/{microvmIdentifier}`,
    status: 200,
    input: onMicrovm,
    output: {},
    errors: changeErrors,
  },
  CreateMicrovmAuthToken: {
    method: 'POST',
    uri: `${microvms}/{microvmIdentifier}/auth-token`,
    status: 200,
    input: {
      ...onMicrovm,
      expirationInMinutes: required(integer({ min: 1 })),
      allowedPorts: required(list(portSpecification, { min: 1 })),
    },
    output: { authToken: required(tokenParts) },
    errors: changeErrors,
  },
  CreateMicrovmShellAuthToken: {
    method: 'POST',
    uri: `${microvms}/{microvmIdentifier}/shell-auth-token`,
    status: 200,
    input: { ...onMicrovm, expirationInMinutes: required(integer({ min: 1 })) },
    output: { authToken: required(tokenParts) },
    errors: changeErrors,
  },
  TagResource: {
    method: 'POST',
    uri: '/2017-03-31/tags/{Resource}',
    status: 204,
    input: { Resource: path(taggable), Tags: required(tags) },
    output: {},
    errors: tagChangeErrors,
  },
  UntagResource: {
    method: 'DELETE',
    uri: '/2017-03-31/tags/{Resource}',
    status: 204,
    input: { Resource: path(taggable), TagKeys: { ...query(list(tagKey)), required: true, wire: 'tagKeys' } },
    output: {},
    errors: tagChangeErrors,
  },
  ListTags: {
    method: 'GET',
    uri: '/2017-03-31/tags/{Resource}',
    status: 200,
    input: { Resource: path(taggable) },
    output: { Tags: optional(tags) },
    errors: tagReadErrors,
  },
} as const;

const message = { message: optional(text) } as const;
const typed = { Type: optional(text), message: optional(text) } as const;
const resource = { resourceId: optional(text), resourceType: optional(text) } as const;
const quota = { serviceCode: optional(text), quotaCode: optional(text) } as const;
const retryAfterSeconds = { shape: integer(), required: false, in: 'header', wire: 'Retry-After' } as const;

export const lambdaMicrovms = {
  signingName: 'lambda',
  writesNulls: true,
  operations,
  errors: {
    AccessDeniedException: { status: 403, members: message },
    ConflictException: { status: 409, members: { ...message, ...resource } },
    InsufficientCapacityException: { status: 500, members: { message: required(text) } },
    InternalServerException: { status: 500, members: { ...message, retryAfterSeconds } },
    InvalidParameterValueException: { status: 400, members: typed },
    ResourceConflictException: { status: 409, members: typed },
    ResourceNotFoundException: { status: 404, members: { message: required(text), ...resource } },
    ServiceException: { status: 500, members: typed },
    ServiceQuotaExceededException: { status: 402, members: { ...message, ...resource, ...quota } },
    ThrottlingException: { status: 429, members: { ...message, ...quota, retryAfterSeconds } },
    TooManyRequestsException: { status: 429, members: typed },
    ValidationException: { status: 400, members: message },
  },
} as const satisfies Service;
