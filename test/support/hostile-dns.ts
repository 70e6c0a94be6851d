/**
 * The name server of an attacker, in a process of its own: it answers what it is told to, in turn, and writes down every name
 * that reached it, so that a test sees what got out. Ends with its standard input.
 *
 *   nsenter … node hostile-dns.ts <HostileZone as JSON>
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Namespace } from './network.ts';

export interface HostileZone {
  readonly address: string;
  /** By name, or by `*.` and what follows; the answers are given one after the other, round and round. */
  readonly names: Readonly<Record<string, { readonly ttl: number; readonly turns: readonly (readonly string[])[] }>>;
}

export interface HostileDns {
  /** `<type> <name>` of all questions so far. */
  readonly asked: readonly string[];
}

/** Ends with `stack`. */
export async function startHostileDns(
  stack: AsyncDisposableStack,
  at: Namespace,
  zone: HostileZone,
): Promise<HostileDns> {
  const [program = '', ...args] = at.command([process.execPath, import.meta.filename, JSON.stringify(zone)]);
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  stack.defer(() => ended(child));
  const lines = createInterface({ input: child.stdout });
  await once(lines, 'line', { signal: AbortSignal.timeout(20_000) });
  const asked: string[] = [];
  lines.on('line', (line) => asked.push(line));
  return { asked };
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.stdin?.end();
  child.kill('SIGKILL');
  await exit;
}

function serve({ address, names }: HostileZone): void {
  process.stdin.on('end', () => process.exit(0)).resume();
  const turns = new Map<string, number>();
  const socket = createSocket('udp4');
  socket.on('message', (query, from) => {
    const { name, type, end } = questionOf(query);
    process.stdout.write(`${type} ${name}\n`);
    const listed = names[name] ?? names[`*.${name.slice(name.indexOf('.') + 1)}`];
    const turn = turns.get(name) ?? 0;
    turns.set(name, turn + 1);
    const addresses = type === 1 ? (listed?.turns[turn % listed.turns.length] ?? []) : [];
    const header = Buffer.from(query.subarray(0, 12));
    header.writeUInt16BE(0x8180 | (listed === undefined ? 3 : 0), 2);
    [1, addresses.length, 0, 0].forEach((count, index) => {
      header.writeUInt16BE(count, 4 + 2 * index);
    });
    const records = addresses.map((one) => {
      const record = Buffer.from('c00c00010001000000000004' + '00000000', 'hex');
      record.writeUInt32BE(listed?.ttl ?? 0, 6);
      record.set(one.split('.').map(Number), 12);
      return record;
    });
    socket.send(Buffer.concat([header, query.subarray(12, end), ...records]), from.port, from.address);
  });
  socket.bind(5353, address, () => process.stdout.write('ready\n'));
}

function questionOf(query: Buffer): { name: string; type: number; end: number } {
  const labels: string[] = [];
  let at = 12;
  for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length));
    at += 1 + length;
  }
  return { name: labels.join('.').toLowerCase(), type: query.readUInt16BE(at + 1), end: at + 5 };
}

if (import.meta.main) serve(JSON.parse(process.argv[2] ?? '') as HostileZone);
