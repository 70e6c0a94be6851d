import type { VersionView } from '../../images/index.ts';
import type { Output } from '../operation.ts';

/**
 * A version as the wire shows it: with the unmodelled `versionStateTimeBucket`, state and hour in UTC
 * (`SUCCESSFUL#26073006`, recorded once). Which of its times is meant is not known. GUESS: version-time-bucket
 */
export function versionAnswer(version: VersionView): Output<'GetMicrovmImageVersion'> {
  const hour = new Date(version.updatedAt ?? version.createdAt).toISOString().replace(/[-T]/g, '').slice(2, 10);
  return { ...version, versionStateTimeBucket: `${version.state}#${hour}` };
}
