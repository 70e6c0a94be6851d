/**
 * Which server a command talks to, and as whom. A named state folder decides; else the AWS variables of the environment
 * (as `rekindle env` prints them, or pointed at another machine); else the default state folder.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Config, type Environment, loadConfig, type RawSettings } from '../config.ts';
import { type Provisions, provisionsOf, readAccessKey, readServerRecord, tlsDirOf } from '../home/index.ts';
import { messageOf } from '../lib/index.ts';
import { CliError, EXIT } from './exit.ts';

export interface Target extends Provisions {
  readonly apiUrl: string;
  readonly s3Url: string;
  readonly region: string;
  readonly account: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** PEM file of the endpoints' authority. Undefined: the system's authorities. */
  readonly caFile: string | undefined;
}

/** The settings of a command line; refused ones are wrong usage. @throws CliError */
export function readSettings(flags: RawSettings, env: Environment): Config {
  try {
    return loadConfig(flags, env);
  } catch (error) {
    throw new CliError(messageOf(error), EXIT.usage, { cause: error });
  }
}

/** @throws CliError saying how to get a server */
export function findTarget(options: { state?: string | undefined }, env: Environment): Target {
  const url = env.AWS_ENDPOINT_URL_LAMBDA_MICROVMS;
  if (options.state === undefined && url !== undefined && url !== '') return fromEnvironment(url, env);
  const { stateDir } = readSettings(options.state === undefined ? {} : { state: options.state }, env);
  return fromStateFolder(stateDir);
}

export function fromStateFolder(stateDir: string): Target {
  const record = readServerRecord(stateDir);
  const key = readAccessKey(stateDir);
  if (record === undefined || key === undefined) {
    throw new CliError(
      'No server ever ran on this state folder. Start one with "rekindle serve", or name another folder with --state.',
      EXIT.unreachable,
    );
  }
  return {
    apiUrl: `http://127.0.0.1:${record.apiPort}`,
    s3Url: `http://127.0.0.1:${record.s3Port}`,
    region: record.region,
    account: record.account,
    // The operator's certificate is vouched for by whom clients trust anyway, or are told to.
    caFile: record.ownCertificate === true ? undefined : join(tlsDirOf(stateDir), 'ca.pem'),
    ...key,
    ...provisionsOf(record),
  };
}

function fromEnvironment(apiUrl: string, env: Environment): Target {
  const required = (name: string): string => {
    const value = env[name];
    if (value === undefined || value === '') {
      throw new CliError(
        `AWS_ENDPOINT_URL_LAMBDA_MICROVMS is set but ${name} is not: run eval "$(rekindle env)".`,
        EXIT.usage,
      );
    }
    return value;
  };
  const region = env.AWS_REGION || env.AWS_DEFAULT_REGION || 'us-east-1';
  const buildRoleArn = env.REKINDLE_BUILD_ROLE_ARN;
  const account = /^arn:aws:iam::(\d{12}):/.exec(buildRoleArn ?? '')?.[1] ?? '000000000000';
  const provided = provisionsOf({ region, account });
  return {
    apiUrl,
    s3Url: env.AWS_ENDPOINT_URL_S3 || apiUrl,
    region,
    account,
    accessKeyId: required('AWS_ACCESS_KEY_ID'),
    secretAccessKey: required('AWS_SECRET_ACCESS_KEY'),
    caFile: env.AWS_CA_BUNDLE || env.NODE_EXTRA_CA_CERTS || undefined,
    buildRoleArn: buildRoleArn || provided.buildRoleArn,
    executionRoleArn: env.REKINDLE_EXECUTION_ROLE_ARN || provided.executionRoleArn,
    baseImageArn: env.REKINDLE_BASE_IMAGE_ARN || provided.baseImageArn,
    artifactBucket: env.REKINDLE_ARTIFACT_BUCKET || provided.artifactBucket,
  };
}

/** The authority to trust for endpoints. */
export function readCa(target: Target): string | undefined {
  if (target.caFile === undefined || !existsSync(target.caFile)) return undefined;
  return readFileSync(target.caFile, 'utf8');
}

/** The variables that make any AWS client talk to the server. */
export function environmentOf(target: Target): Record<string, string> {
  const { caFile } = target;
  return {
    AWS_ENDPOINT_URL_LAMBDA_MICROVMS: target.apiUrl,
    AWS_ENDPOINT_URL_LAMBDA_CORE: target.apiUrl,
    AWS_ENDPOINT_URL_CLOUDWATCH_LOGS: target.apiUrl,
    AWS_ENDPOINT_URL_S3: target.s3Url,
    AWS_REGION: target.region,
    AWS_DEFAULT_REGION: target.region,
    AWS_ACCESS_KEY_ID: target.accessKeyId,
    AWS_SECRET_ACCESS_KEY: target.secretAccessKey,
    ...(caFile !== undefined && { AWS_CA_BUNDLE: caFile, NODE_EXTRA_CA_CERTS: caFile }),
    REKINDLE_BUILD_ROLE_ARN: target.buildRoleArn,
    REKINDLE_EXECUTION_ROLE_ARN: target.executionRoleArn,
    REKINDLE_BASE_IMAGE_ARN: target.baseImageArn,
    REKINDLE_ARTIFACT_BUCKET: target.artifactBucket,
  };
}
