/**
 * The gateway beside QEMU's built-in user network and passt, in one run: the same real guest, kernel and card; the peer is in a
 * network namespace of its own. Rounds alternate, so that a drift of the machine's speed falls on all.
 * `node bench/network.ts [rounds]`; needs root, and `passt` installed for its column.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { chownSync, existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { loadConfig } from '../src/config.ts';
import { loadRuntime, type Runtime } from '../src/engine/index.ts';
import { ControlChannel } from '../src/engine/network/control.ts';
import { cpuModel, kernelLine, LINK_PORT } from '../src/engine/vmm/qemu/command-line.ts';
import { type GuestLink, openLink } from '../src/guest/index.ts';
import { median, printTable, type Row, spread } from './table.ts';

const exec = promisify(execFile);
const BULK_BYTES = 64 * 1024 * 1024;
const CONNECTIONS = 200;
const PEER = '10.231.77.2';
const UID = 0x40000001;
const KINDS = ['gateway', 'user', 'passt'] as const;
const WANTED = process.argv[3]?.split(',') ?? [...KINDS];
type Kind = (typeof KINDS)[number];

/** Prints how many seconds it took. */
const PROGRAM = `import socket, sys, time
what, host, amount = sys.argv[1], sys.argv[2], int(sys.argv[3])
began = time.monotonic()
if what == "out":
    s = socket.create_connection((host, 7001))
    s.sendall(b"%d\\n" % amount)
    block = b"x" * 262144
    for _ in range(amount // len(block)):
        s.sendall(block)
    assert s.recv(1) == b"."
elif what == "in":
    s = socket.create_connection((host, 7002))
    s.sendall(b"%d\\n" % amount)
    buffer = bytearray(262144)
    got = 0
    while True:
        n = s.recv_into(buffer)
        if n == 0:
            break
        got += n
    assert got == amount, got
else:
    for _ in range(amount):
        with socket.create_connection((host, 7003)) as s:
            assert s.recv(1) == b"."
print(time.monotonic() - began)
`;

interface Contender {
  readonly kind: Kind;
  readonly link: GuestLink;
  readonly vmm: ChildProcess;
}

async function main(): Promise<void> {
  const rounds = Number(process.argv[2] ?? 5);
  const { cacheDir } = loadConfig({}, process.env);
  const runtime = loadRuntime(cacheDir);
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-network-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  await peer(stack);
  const contenders: Contender[] = [];
  for (const kind of KINDS) {
    if (!WANTED.includes(kind) || (kind === 'passt' && !(await hasPasst()))) continue;
    const netdev = await network(kind, join(dir, kind), runtime, stack);
    const started = await guest(kind, join(dir, kind), runtime, netdev, stack);
    // Only the one that is measured may use the CPUs.
    started.vmm.kill('SIGSTOP');
    contenders.push({ kind, ...started });
  }
  const took = new Map<string, number[]>();
  for (let round = 0; round <= rounds; round++) {
    for (const [what, amount] of [
      ['out', BULK_BYTES],
      ['in', BULK_BYTES],
      ['connect', CONNECTIONS],
    ] as const) {
      for (const { kind, link, vmm } of contenders) {
        vmm.kill('SIGCONT');
        const seconds = await measure(link, what, amount);
        vmm.kill('SIGSTOP');
        console.error(`network: ${kind} ${what} ${seconds.toFixed(2)} s`);
        // The first round warms all of them.
        if (round > 0) took.set(`${kind} ${what}`, [...(took.get(`${kind} ${what}`) ?? []), seconds]);
      }
    }
  }
  const rows: Row[] = [];
  for (const [what, title, unit, amount, goal] of [
    ['out', 'guest to host', 'MB/s', BULK_BYTES / 1e6, 1],
    ['in', 'host to guest', 'MB/s', BULK_BYTES / 1e6, 1],
    ['connect', 'new connections', '/s', CONNECTIONS, 0.8],
  ] as const) {
    const rate = (kind: Kind) => (took.get(`${kind} ${what}`) ?? []).map((seconds) => amount / seconds);
    for (const { kind } of contenders) rows.push({ what: `${title}, ${kind}`, value: spread(rate(kind), unit, 1) });
    const best = Math.max(...contenders.filter(({ kind }) => kind !== 'gateway').map(({ kind }) => median(rate(kind))));
    const ratio = median(rate('gateway')) / best;
    rows.push({
      what: `${title}, gateway against the better`,
      value: ratio.toFixed(2),
      promise: `>= ${goal}`,
      kept: ratio >= goal,
    });
  }
  printTable('Network (medians, spread in brackets)', rows);
}

/** A namespace with the servers, at the other end of a virtual cable. */
async function peer(stack: AsyncDisposableStack): Promise<void> {
  const name = `rkbench${process.pid}`;
  const ip = (...args: string[]) => exec('ip', args);
  await ip('netns', 'add', name);
  stack.defer(async () => void (await ip('netns', 'del', name)));
  await ip('link', 'add', 'rkbench0', 'type', 'veth', 'peer', 'name', 'rkbench1', 'netns', name);
  await ip('addr', 'add', '10.231.77.1/30', 'dev', 'rkbench0');
  await ip('link', 'set', 'rkbench0', 'up');
  await ip('-n', name, 'addr', 'add', `${PEER}/30`, 'dev', 'rkbench1');
  await ip('-n', name, 'link', 'set', 'rkbench1', 'up');
  const program = join(import.meta.dirname, 'network-peer.ts');
  own(
    stack,
    spawn('ip', ['netns', 'exec', name, process.execPath, program, PEER], { stdio: ['pipe', 'inherit', 'inherit'] }),
  );
  await delay(1500);
}

/** Starts what the guest's card leads to; gives QEMU's netdev. */
async function network(kind: Kind, dir: string, runtime: Runtime, stack: AsyncDisposableStack): Promise<string> {
  await mkdir(dir);
  if (kind === 'user') return 'user,id=net,net=192.0.0.0/29,host=192.0.0.1,dns=192.0.0.3,dhcpstart=192.0.0.2';
  if (kind === 'passt') {
    const socket = join(dir, 'passt.sock');
    const args = ['-f', '-q', '-4', '-s', socket, '-a', '192.0.0.2', '-n', '29', '-g', '192.0.0.1', '-m', '65520'];
    own(stack, spawn('passt', [...args, '-M', '02:52:4b:00:00:01', '--runas', '0'], { stdio: 'ignore' }));
    await delay(1000);
    return `stream,id=net,server=off,addr.type=unix,addr.path=${socket}`;
  }
  const folderOfGateway = join(dir, 'gateway');
  const flows = join(dir, 'flows');
  for (const folder of [folderOfGateway, flows]) {
    await mkdir(folder, { mode: 0o755 });
    chownSync(folder, UID, UID);
  }
  const program = join(dir, 'rekindle-gateway');
  await copyFile(runtime.gateway.program, program);
  await exec('chmod', ['-R', 'o+rx', join(dir, '..')]);
  const args = [
    '--reuid',
    `${UID}`,
    '--regid',
    `${UID}`,
    '--clear-groups',
    program,
    '--dir',
    folderOfGateway,
    '--flows',
    flows,
  ];
  own(stack, spawn('setpriv', args, { stdio: 'ignore' }));
  await delay(1500);
  const channel = stack.use(await ControlChannel.open(join(folderOfGateway, 'control.sock')));
  await channel.attach('bench', {
    policy: {
      dns: 'off',
      rules: [{ id: 'peer', kind: 'cidr', cidr: `${PEER}/32`, protocols: ['tcp'], ports: [[1, 65_535]] }],
    },
    limits: { newConnectionsPerSecond: 100_000, connections: 10_000, bytesPerSecondOut: 1e12, bytesPerSecondIn: 1e12 },
    labels: { principal: 'bench', imageArn: 'bench', imageVersion: '1.0' },
  });
  return `stream,id=net,server=off,addr.type=unix,addr.path=${join(folderOfGateway, 'net/bench/net.sock')}`;
}

/** Boots the managed base with the agent and the one card every guest has. */
async function guest(
  kind: Kind,
  dir: string,
  runtime: Runtime,
  netdev: string,
  stack: AsyncDisposableStack,
): Promise<Omit<Contender, 'kind'>> {
  const disk = join(dir, 'disk.qcow2');
  await exec(runtime.qemu.img, ['create', '-q', '-f', 'qcow2', '-b', runtime.base.disk, '-F', 'raw', disk]);
  const socketPath = join(dir, 'link.sock');
  const empty = ['spare1', 'spare2', 'spare3'].flatMap((serial) => [
    ...['-blockdev', `null-co,node-name=${serial},size=17179869184,read-zeroes=on`],
    ...['-device', `virtio-blk-device,drive=${serial},serial=${serial}`],
  ]);
  const args = [
    ...['-name', `bench-${kind}`, ...runtime.qemu.dataDirs.flatMap((each) => ['-L', each])],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-M', 'microvm,acpi=on', '-accel', 'tcg,thread=multi'],
    ...['-cpu', cpuModel('tcg'), '-smp', '1', '-m', '512M'],
    ...['-kernel', runtime.guest.kernel, '-initrd', runtime.guest.initramfs],
    ...['-append', kernelLine(runtime.tscKhz, 'tcg'), '-serial', `file:${join(dir, 'console.log')}`],
    ...['-device', 'virtio-serial-device', '-chardev', `socket,id=link,path=${socketPath},server=on,wait=off`],
    ...['-device', `virtserialport,chardev=link,name=${LINK_PORT}`],
    ...['-blockdev', `qcow2,node-name=root,file.driver=file,file.filename=${disk}`],
    ...['-device', 'virtio-blk-device,drive=root,serial=root', ...empty],
    ...['-netdev', netdev, '-device', 'virtio-net-device,netdev=net,mac=02:52:4b:00:00:02'],
  ];
  const vmm = own(stack, spawn(runtime.qemu.binary, args, { stdio: ['ignore', 'inherit', 'inherit'] }));
  await delay(1000);
  const link = stack.use(await openLink({ socketPath, secret: '0'.repeat(64), patienceMs: 5000, timeoutMs: 180_000 }));
  await link.mountRoot({ timeoutMs: 120_000 });
  return { link, vmm };
}

async function measure(link: GuestLink, what: string, amount: number): Promise<number> {
  let said = '';
  const argv = ['/usr/bin/python3', '-c', PROGRAM, what, PEER, `${amount}`];
  const onOutput = (chunk: Buffer) => {
    said += chunk;
  };
  const { exitCode } = await link.exec({ argv, env: [], cwd: '/' }, { onOutput, timeoutMs: 300_000 });
  if (exitCode !== 0) throw new Error(`${what}: ${said}`);
  return Number(said);
}

function own(stack: AsyncDisposableStack, child: ChildProcess): ChildProcess {
  stack.defer(() => void child.kill('SIGKILL'));
  return child;
}

async function hasPasst(): Promise<boolean> {
  return existsSync('/usr/bin/passt');
}

await main();
