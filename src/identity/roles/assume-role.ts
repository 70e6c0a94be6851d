/** `sts:AssumeRole` at the operator's endpoint, by the official client, which is loaded when the first role needs it. */
import { readCredentials, type SourceCredentials, SourceError } from './role-credentials.ts';
import type { RoleSource } from './roles-file.ts';
import type { Asking } from './sources.ts';

const CONNECT_TIMEOUT_MS = 3000;
const ANSWER_TIMEOUT_MS = 10_000;
const ATTEMPTS = 2;
/** Names of errors with which an STS says no, rather than that it cannot say. */
const REFUSALS = ['AccessDenied', 'AccessDeniedException', 'NoSuchEntity', 'MalformedPolicyDocument'];

/** @throws SourceError; the signal's reason */
export async function assumeRole(
  source: Extract<RoleSource, { kind: 'assume-role' }>,
  caller: SourceCredentials,
  { sessionName, signal }: Asking,
): Promise<SourceCredentials> {
  const { AssumeRoleCommand, STSClient } = await import('@aws-sdk/client-sts');
  const { accessKeyId, secretAccessKey, sessionToken } = caller;
  const client = new STSClient({
    endpoint: source.endpoint,
    region: source.region,
    credentials: { accessKeyId, secretAccessKey, ...(sessionToken !== '' && { sessionToken }) },
    maxAttempts: ATTEMPTS,
    requestHandler: { connectionTimeout: CONNECT_TIMEOUT_MS, requestTimeout: ANSWER_TIMEOUT_MS },
  });
  const command = new AssumeRoleCommand({
    RoleArn: source.roleArn,
    RoleSessionName: sessionName,
    DurationSeconds: source.durationSeconds,
    ...(source.externalId !== null && { ExternalId: source.externalId }),
  });
  const what = `The STS at ${new URL(source.endpoint).host}`;
  try {
    const { Credentials: given } = await client.send(command, { abortSignal: signal });
    return readCredentials(what, { ...given, Expiration: given?.Expiration?.toISOString() });
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof SourceError) throw error;
    // The name alone: messages tell who asked, and of what is no answer of an STS they quote it.
    const name = error instanceof Error ? error.name.slice(0, 64) : 'unknown';
    throw new SourceError(REFUSALS.includes(name) ? 'gone' : 'failed', `${what} gave no credentials: ${name}.`);
  } finally {
    client.destroy();
  }
}
