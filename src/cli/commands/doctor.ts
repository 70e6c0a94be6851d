/** `rekindle doctor`: what this host has, what it lacks, and the line that mends it. Changes nothing. */
import type { Environment } from '../../config.ts';
import { EXIT } from '../exit.ts';
import { inspectAll } from '../host-checks.ts';
import { readSettings } from '../target.ts';
import { createTerminal } from '../terminal.ts';

export interface DoctorOptions {
  readonly state?: string;
  readonly cache?: string;
  readonly apiPort?: string;
  readonly json?: boolean;
}

const MARKS = { ok: '  ok  ', note: ' note ', missing: ' MISS ' } as const;

/** @returns the exit code: 0 when a server can run here */
export async function doctor(options: DoctorOptions, env: Environment): Promise<number> {
  const { json, ...flags } = options;
  const config = readSettings(flags, env);
  const terminal = createTerminal({ json: json === true });
  const findings = await inspectAll(config);
  const isReady = findings.every((finding) => finding.status !== 'missing');
  terminal.json({ ready: isReady, findings });
  for (const { status, subject, text, remedy } of findings) {
    terminal.say(`[${MARKS[status]}] ${subject}: ${text}`);
    if (remedy !== undefined) terminal.say(`         → ${remedy}`);
  }
  terminal.say(
    isReady ? '\nThis host is ready: rekindle serve' : '\nThis host is not ready yet; the lines marked → mend it.',
  );
  return isReady ? EXIT.ok : EXIT.hostNotReady;
}
