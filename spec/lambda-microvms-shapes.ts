/** The shapes `lambda-microvms` is made of; the operations that use them stand in `lambda-microvms.ts`. */
import {
  boolean,
  epochSeconds,
  integer,
  list,
  map,
  oneOf,
  optional,
  required,
  string,
  structure,
  union,
  unmodelled,
} from './shape.ts';

export const text = string({});
export const nonBlank = string({ min: 1, max: 2048, pattern: '[^\\s]+' });
export const connectorArn = string({ min: 1, max: 2048 });
export const roleArn = string({
  min: 20,
  max: 2048,
  pattern: 'arn:aws[a-z\\-]*:iam::[0-9]{12}:role/?[a-zA-Z_0-9+=,.@\\-_/]+',
});
export const imageName = string({ min: 1, max: 64, pattern: '[a-zA-Z0-9-_]+' });
export const imageIdentifier = string({ min: 1, max: 256 });
export const imageArn = string({
  min: 20,
  max: 2048,
  pattern: 'arn:[a-z0-9-]+:lambda:[a-z0-9-]*:[a-z0-9]*:microvm-image:.+',
});
export const microvmIdentifier = string({ min: 1, max: 256 });
export const clientToken = string({ min: 1, max: 128 });
export const pageSize = integer({ min: 1, max: 50 });
export const port = integer({ min: 1, max: 65535 });

export const imageState = oneOf(
  'CREATING',
  'CREATED',
  'CREATE_FAILED',
  'UPDATING',
  'UPDATED',
  'UPDATE_FAILED',
  'DELETING',
  'DELETE_FAILED',
  'DELETED',
);
export const versionState = oneOf(
  'PENDING',
  'IN_PROGRESS',
  'SUCCESSFUL',
  'FAILED',
  'DELETING',
  'DELETED',
  'DELETE_FAILED',
);
export const versionStatus = oneOf('ACTIVE', 'INACTIVE');
export const buildState = oneOf('PENDING', 'IN_PROGRESS', 'SUCCESSFUL', 'FAILED');
export const microvmState = oneOf('PENDING', 'RUNNING', 'SUSPENDING', 'SUSPENDED', 'TERMINATING', 'TERMINATED');
export const managedStatus = oneOf('AVAILABLE', 'DEPRECATED');
export const architecture = oneOf('ARM_64');
export const chipset = oneOf('GRAVITON');
export const onOff = oneOf('DISABLED', 'ENABLED');

export const tagText = '([\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*)';
export const tagKey = string({ min: 1, max: 128, pattern: tagText });
export const tags = map(tagKey, string({ min: 0, max: 256, pattern: tagText }));
export const environment = map(
  string({ min: 1, max: 256, pattern: '[^\\s]+' }),
  string({ min: 0, max: 4096, sensitive: true }),
  { min: 0, max: 50 },
);
export const tokenParts = map(
  string({ min: 1, max: 256, pattern: '[^\\s]+' }),
  string({ min: 0, max: 8000, sensitive: true }),
  { min: 1, max: 10 },
);
export const taggable = string({
  min: 1,
  max: 10000,
  pattern:
    'arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{1}:\\d{12}:(function:[a-zA-Z0-9-_]+(:(\\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|code-signing-config:csc-[a-z0-9]{17}|event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|(capacity-provider|network-connector|microvm-image):[a-zA-Z0-9-_]+)',
});

export const logging = union({
  disabled: optional(structure({})),
  cloudWatch: optional(
    structure({
      logGroup: optional(string({ min: 1, max: 512, pattern: '[a-zA-Z0-9_\\-/.#]+' })),
      logStream: optional(string({ min: 1, max: 512, pattern: '[^:*]*' })),
    }),
  ),
});
export const hookTimeout = integer({ min: 1, max: 60 });
export const buildHookTimeout = integer({ min: 1, max: 3600 });
export const hooks = structure({
  port: optional(port),
  microvmHooks: optional(
    structure({
      run: optional(onOff),
      runTimeoutInSeconds: optional(hookTimeout),
      resume: optional(onOff),
      resumeTimeoutInSeconds: optional(hookTimeout),
      suspend: optional(onOff),
      suspendTimeoutInSeconds: optional(hookTimeout),
      terminate: optional(onOff),
      terminateTimeoutInSeconds: optional(hookTimeout),
    }),
  ),
  microvmImageHooks: optional(
    structure({
      ready: optional(onOff),
      readyTimeoutInSeconds: optional(buildHookTimeout),
      validate: optional(onOff),
      validateTimeoutInSeconds: optional(buildHookTimeout),
    }),
  ),
});
export const idlePolicy = structure({
  maxIdleDurationSeconds: required(integer({ min: 60 })),
  suspendedDurationSeconds: required(integer({ min: 0 })),
  autoResumeEnabled: required(boolean),
});
export const connectors = list(connectorArn, { min: 0, max: 10 });
export const portSpecification = union({
  port: optional(port),
  range: optional(structure({ startPort: required(port), endPort: required(port) })),
  allPorts: optional(structure({})),
});

/**
 * What a version is made of. The order of the required members is the one in which the service reports their absence
 * (recorded); it is not the model's.
 */
export const configuration = {
  baseImageArn: required(nonBlank),
  codeArtifact: required(union({ uri: optional(nonBlank) })),
  buildRoleArn: required(roleArn),
  baseImageVersion: optional(nonBlank),
  description: optional(text),
  logging: optional(logging),
  egressNetworkConnectors: optional(list(connectorArn, { min: 0, max: 1 })),
  cpuConfigurations: optional(list(structure({ architecture: required(architecture) }))),
  resources: optional(list(structure({ minimumMemoryInMiB: required(integer()) }), { min: 0, max: 1 })),
  additionalOsCapabilities: optional(list(oneOf('ALL'))),
  hooks: optional(hooks),
  environmentVariables: optional(environment),
} as const;

export const imageSummary = {
  id: unmodelled(text),
  imageArn: required(nonBlank),
  name: required(imageName),
  state: required(imageState),
  latestActiveImageVersion: optional(nonBlank),
  latestFailedImageVersion: optional(nonBlank),
  createdAt: required(epochSeconds),
} as const;

/** Image and configuration together, as create and update answer. */
export const imageWithConfiguration = {
  ...configuration,
  ...imageSummary,
  buildPhaseOverrides: unmodelled(text),
  roleConfiguration: unmodelled(text),
  imageVersion: required(nonBlank),
} as const;

export const version = {
  ...configuration,
  imageArn: required(nonBlank),
  imageVersion: required(nonBlank),
  state: required(versionState),
  stateReason: optional(text),
  status: required(versionStatus),
  tags: optional(tags),
  createdAt: required(epochSeconds),
  updatedAt: optional(epochSeconds),
  versionStateTimeBucket: unmodelled(text),
} as const;

export const build = {
  imageArn: required(nonBlank),
  imageVersion: required(nonBlank),
  buildId: required(nonBlank),
  buildState: required(buildState),
  architecture: required(architecture),
  chipset: required(chipset),
  chipsetGeneration: required(nonBlank),
  stateReason: optional(text),
  createdAt: required(epochSeconds),
  terminationReasonCode: unmodelled(text),
} as const;

export const managedImage = {
  imageArn: required(nonBlank),
  createdAt: required(epochSeconds),
  updatedAt: optional(epochSeconds),
} as const;

export const microvmItem = {
  microvmId: required(microvmIdentifier),
  state: required(microvmState),
  imageArn: required(imageArn),
  imageVersion: required(nonBlank),
  startedAt: required(epochSeconds),
} as const;

export const microvm = {
  ...microvmItem,
  endpoint: required(string({ min: 1, max: 2048 })),
  executionRoleArn: optional(roleArn),
  idlePolicy: optional(idlePolicy),
  maximumDurationInSeconds: required(integer()),
  terminatedAt: optional(epochSeconds),
  stateReason: optional(nonBlank),
  terminationReasonCode: unmodelled(text),
  ingressNetworkConnectors: optional(connectors),
  egressNetworkConnectors: optional(connectors),
} as const;
