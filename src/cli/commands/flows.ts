/** `rekindle flows`: what a microVM reached and tried to reach, as the gateway wrote it down. */
import type { Environment } from '../../config.ts';
import { getExtension } from '../clients.ts';
import type { CommonOptions } from '../session.ts';
import { findTarget } from '../target.ts';
import { createTerminal } from '../terminal.ts';

export interface FlowsOptions extends CommonOptions {
  readonly follow?: boolean;
  readonly refused?: boolean;
  readonly dns?: boolean;
}

/** A line of the log as far as it is shown; what a record lacks is absent. */
interface Line {
  readonly at: string;
  readonly kind: string;
  readonly protocol?: string;
  readonly to?: string;
  readonly name?: string | null;
  readonly type?: string;
  readonly verdict?: string;
  readonly rule?: string | null;
  readonly reason?: string | null;
  readonly answers?: readonly string[];
  readonly bytesOut?: number;
  readonly bytesIn?: number;
  readonly durationMs?: number;
  readonly what?: string;
  readonly count?: number;
}

export async function microvmFlows(microvmId: string, options: FlowsOptions, env: Environment): Promise<void> {
  const target = findTarget(options, env);
  const terminal = createTerminal({ json: options.json === true });
  const stream = await getExtension(target, `/rekindle/v1/microvms/${encodeURIComponent(microvmId)}/flows`, {
    ...(options.follow === true && { follow: 'true' }),
    ...(options.refused === true && { refused: 'true' }),
    ...(options.dns === true && { kind: 'dns' }),
  });
  const { createInterface } = await import('node:readline');
  // One JSON document a line: with --json they are passed on as they are.
  for await (const line of createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY })) {
    await terminal.raw(terminal.isJson ? `${line}\n` : `${plain(JSON.parse(line))}\n`);
  }
}

function plain(line: Line): string {
  const columns = [line.at, line.verdict?.padEnd('refused'.length) ?? line.kind, ...about(line)];
  // Names come from the guest; a terminal must not be told anything by them.
  return columns.join('  ').replace(/\p{C}/gu, '?');
}

function about(line: Line): string[] {
  const { name, rule, reason, count = 0, durationMs = 0 } = line;
  const why = rule ?? reason ?? '-';
  switch (line.kind) {
    case 'flow': {
      const to = name == null ? String(line.to) : `${line.to} (${name})`;
      return [String(line.protocol), to, why, `${line.bytesOut} B out, ${line.bytesIn} B in`, `${durationMs} ms`];
    }
    case 'dns':
      return ['dns', `${name} ${line.type}`, why, line.answers?.join(' ') || '-', `${durationMs} ms`];
    case 'drop':
      return [`${line.what}: ${count} frames`];
    case 'suppressed':
      return [`${count} records were too many to be written`];
    default:
      return [];
  }
}
