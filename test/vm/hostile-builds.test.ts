/**
 * Dockerfiles that attack what builds them: processes, memory, disk, time, output, files, links, the kernel, the network. Each
 * ends with a reason that its owner can read, leaves nothing, costs the host no more than one build may, and the next build
 * works. What is told in docs/IMAGES.md, "Hostile builds". Hostile zips are in src/artifacts/unzip.test.ts.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type ArtifactFiles, buildImage, counterApp } from '../support/images.ts';
import { run, startServer, type TestServer } from '../support/server.ts';
import { smallDisk } from '../support/small-disk.ts';

const skip = process.env.REKINDLE_LONG_TESTS === undefined && 'takes half an hour: REKINDLE_LONG_TESTS=1 runs it';
const needsRoot = process.geteuid?.() !== 0 && 'a disk of its own needs root';

/** What a Dockerfile may take here; a busy host needs more (REKINDLE_HOSTILE_SECONDS). */
const TIMEOUT_SECONDS = Number(process.env.REKINDLE_HOSTILE_SECONDS ?? 60);
const TIMED_OUT = /^The container image build timed out after PT/;
/** A builder's memory and what its VMM has besides. */
const MOST_MACHINE_MIB = 2048 + 512;
const MOST_SERVER_GROWTH_MIB = 300;

const from = (...lines: readonly string[]): ArtifactFiles => ({
  Dockerfile: ['FROM public.ecr.aws/lambda/microvms:al2023-minimal', ...lines, 'CMD ["true"]', ''].join('\n'),
});
const python = (code: string) => `RUN <<EOF python3 -u\n${code}\nEOF`;
/** The steps all ran, and so did the app: it ended at once. */
const BUILT = /^The application exited with code 0 before it was ready\.$/;

/** Says `open` of what a step must not be able to do. */
const PROBES = `
import ctypes, os, socket, stat
libc = ctypes.CDLL(None, use_errno=True)
def probe(name, attempt):
    try:
        result = attempt()
    except OSError as error:
        result = f"{error.strerror}"
        print("held:", name, result)
    else:
        print("open:", name, result)
def call(number, *args):
    if libc.syscall(number, *args) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def write(path, text):
    with open(path, "w") as file:
        file.write(text)
def some(read):
    if read == b"":
        raise OSError(0, "nothing in it")
def device(kind, major, minor):
    path = f"/tmp/device-{major}-{minor}"
    os.mknod(path, kind | 0o600, os.makedev(major, minor))
    with open(path, "rb") as file:
        file.read(512)
probe("sysrq", lambda: write("/proc/sysrq-trigger", "b"))
probe("core_pattern", lambda: write("/proc/sys/kernel/core_pattern", "|/tmp/x"))
probe("modprobe path", lambda: write("/proc/sys/kernel/modprobe", "/tmp/x"))
probe("uevent helper", lambda: write("/sys/kernel/uevent_helper", "/tmp/x"))
probe("cgroup", lambda: write("/sys/fs/cgroup/pids.max", "max"))
probe("memory", lambda: open("/dev/mem", "rb"))
probe("memory by number", lambda: device(stat.S_IFCHR, 1, 1))
probe("ports by number", lambda: device(stat.S_IFCHR, 1, 4))
for minor in (0, 16, 32, 48):
    probe(f"disk {minor}", lambda: device(stat.S_IFBLK, 254, minor))
    probe(f"disk {minor}", lambda: device(stat.S_IFBLK, 253, minor))
probe("link to the host", lambda: os.listdir("/dev/virtio-ports"))
probe("kernel log", lambda: open("/dev/kmsg", "rb"))
probe("kcore", lambda: some(open("/proc/kcore", "rb").read(16)))
probe("daemon", lambda: socket.socket(socket.AF_UNIX).connect("/run/buildkit/buildkitd.sock"))
probe("mount", lambda: call(165, b"none", b"/mnt", b"tmpfs", 0, None))
probe("umount", lambda: call(166, b"/proc", 2))
probe("unshare of users", lambda: call(272, 0x10000000))
probe("unshare of mounts", lambda: call(272, 0x00020000))
probe("pivot_root", lambda: call(155, b"/", b"/"))
probe("init_module", lambda: call(175, b"x" * 64, 64, b""))
probe("delete_module", lambda: call(176, b"virtio_net", 0))
probe("kexec", lambda: call(246, 0, 0, None, 0))
probe("reboot", lambda: call(169, 0xfee1dead, 672274793, 0x01234567, None))
probe("bpf", lambda: call(321, 0, b"\\0" * 72, 72))
probe("perf", lambda: call(298, b"\\0" * 112, 0, -1, -1, 0))
probe("keyctl", lambda: call(250, 0, -3, 0))
probe("userfaultfd", lambda: call(323, 0))
probe("iopl", lambda: call(172, 3))
probe("ioperm", lambda: call(173, 0x80, 1, 1))
probe("handles", lambda: call(304, 3, b"\\0" * 16, 0))
probe("clock", lambda: call(227, 0, b"\\0" * 16))
probe("swap", lambda: call(167, b"/tmp/x", 0))
probe("hostname", lambda: call(170, b"x", 1))
for pid in os.listdir("/proc"):
    if pid.isdigit() and "buildkit" in open(f"/proc/{pid}/cmdline").read().split("\\0")[0]:
        print("open: the daemon is seen as", pid)
for line in open("/proc/net/unix"):
    if " @" in line:
        print("open: a socket of another's,", line.split()[-1])
print("probed")
`;

/** Says `reached` of whoever answers. */
const scan = (ports: readonly number[], own: readonly string[]) => `
import socket
from concurrent.futures import ThreadPoolExecutor
addresses = ${JSON.stringify([
  ...['127.0.0.1', '127.0.0.53', '0.0.0.0', '::1', '169.254.169.254', '169.254.170.2', '169.254.170.23', '169.254.1.1'],
  ...[
    '10.0.0.1',
    '10.0.2.2',
    '172.16.0.1',
    '172.17.0.1',
    '192.168.0.1',
    '192.168.122.1',
    '100.64.0.1',
    '100.100.100.200',
  ],
  ...[
    '192.0.0.1',
    '192.0.0.2',
    '192.0.0.3',
    '192.0.2.1',
    '192.0.2.2',
    'fd00:ec2::254',
    'fe80::1',
    '255.255.255.255',
    ...own,
  ],
])}
# The guest's own agent, which has nothing to tell in a builder.
OWN_METADATA = ("169.254.169.254", 80)
ports = ${JSON.stringify([22, 25, 53, 80, 111, 443, 2375, 3306, 5432, 6379, 8080, 9090, ...ports])}
def look(target):
    try:
        with socket.create_connection(target, 3):
            print("reached:", target)
    except OSError:
        pass
with ThreadPoolExecutor(64) as pool:
    list(pool.map(look, [(a, p) for a in addresses for p in ports if (a, p) != OWN_METADATA]))
for to in ("192.0.0.1", "10.255.255.53", "239.255.255.250", "224.0.0.251"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(2)
        try:
            udp.sendto(b"M-SEARCH * HTTP/1.1\\r\\n\\r\\n", (to, 1900))
            udp.recv(100)
            print("reached:", to)
        except OSError:
            pass
print("scanned", len(addresses) * len(ports))
`;

/** A step's own line: BuildKit shows a Dockerfile that failed too. */
const said = (text: string) => new RegExp(`^#\\d+ [\\d.]+ ${text}`, 'm');

interface Case {
  readonly name: string;
  readonly files: (server: TestServer) => ArtifactFiles;
  readonly reason: RegExp;
  readonly log?: RegExp;
  readonly not?: RegExp;
}

const cases: readonly Case[] = [
  {
    name: 'a-fork-bomb',
    files: () => from(python('import os\nwhile True:\n  try: os.fork()\n  except OSError: pass')),
    reason: TIMED_OUT,
  },
  {
    name: 'a-fork-bomb-that-ends',
    files: () =>
      from(
        python(
          'import os, time\ntry:\n  while os.fork(): pass\n  time.sleep(600)\nexcept OSError as e: print(e); raise',
        ),
      ),
    reason: /^The container image build failed\.$/,
    log: /\[builder\] a step wanted more than 4096 processes/,
  },
  {
    name: 'memory-without-end',
    files: () => from(python('all = []\nwhile True: all.append(bytearray(1 << 24))')),
    reason: /^The container image build failed\.$/,
    log: /\[builder\] a step wanted more memory/,
  },
  {
    name: 'a-tmpfs-without-end',
    files: () => from('RUN --mount=type=tmpfs,target=/t head -c 8G /dev/zero > /t/big'),
    reason: /^(The container image build failed\.|DISK_STORAGE_FULL: )/,
  },
  { name: 'an-endless-step', files: () => from('RUN sleep infinity'), reason: TIMED_OUT },
  {
    name: 'endless-output',
    files: () => from('RUN yes "$(head -c 3000 /dev/zero | tr \'\\\\0\' x)"'),
    reason: TIMED_OUT,
  },
  {
    name: 'kernel-probing',
    files: () => from(python(PROBES)),
    reason: BUILT,
    log: said('probed'),
    not: said('open: '),
  },
  {
    name: 'network-scanning',
    files: ({ env }) => from(python(scan(portsOf(env), ownAddresses()))),
    reason: BUILT,
    log: said('scanned'),
    not: said('reached: '),
  },
  {
    name: 'a-hundred-thousand-files',
    files: () =>
      from(
        python(
          'import os\nfor d in range(100):\n  os.makedirs(f"/n/{d}")\n  for f in range(1000): open(f"/n/{d}/{f}", "x").close()',
        ),
      ),
    reason: /^(The application exited with code 0 before it was ready\.|The container image build timed out after PT)/,
  },
  {
    name: 'a-layer-of-5-GB',
    files: () => from('RUN head -c 5G /dev/zero > /big'),
    reason:
      /^(The application exited with code 0 before it was ready\.|DISK_STORAGE_FULL: |The container image build timed out after PT)/,
  },
  {
    name: 'links-in-place-of-folders',
    files: () => ({
      Dockerfile: [
        'FROM public.ecr.aws/lambda/microvms:al2023-minimal AS made',
        'RUN mkdir -p /l/etc /l/usr/bin /l/usr/lib64 /l/usr/lib/x86_64-linux-gnu && cd /l && cp -L /bin/true usr/bin/ \\',
        '  && cp -L /lib/x86_64-linux-gnu/libc.so.6 usr/lib/x86_64-linux-gnu/ && cp -L /lib64/ld-linux-x86-64.so.2 usr/lib64/ \\',
        '  && ln -s usr/lib lib && ln -s usr/lib64 lib64 && ln -s / proc && ln -s ../../../../proc sys && ln -s /etc dev \\',
        '  && ln -s /usr/lib run && ln -s /proc/1/root tmp && ln -s /dev/vda etc/resolv.conf && ln -s ../../proc/sysrq-trigger etc/hosts \\',
        '  && ln -s /proc/self/exe etc/hostname && ln -s /proc/1/environ etc/passwd && mkfifo etc/group',
        'FROM scratch',
        'COPY --from=made /l/ /',
        'CMD ["/usr/bin/true"]',
      ].join('\n'),
    }),
    reason: /./,
  },
];

describe('a hostile Dockerfile', { skip }, () => {
  let server: TestServer;
  let serverMiB: number;

  before(async () => {
    // What each of them leaves is looked at.
    server = await startServer({ args: ['--build-timeout', `${TIMEOUT_SECONDS}`, '--builder-keep', '0'] });
    serverMiB = memoryMiB(server.pid, 'VmRSS');
  });
  after(() => server?.[Symbol.asyncDispose]());

  for (const { name, files, reason, log, not } of cases) {
    test(`${name} ends with a reason, and leaves nothing`, async (t) => {
      const watch = watchMachines(server);
      const image = await buildImage(server, name, files(server));
      const machineMiB = watch.stop();
      const text = await run('images', 'log', name, '--state', server.stateDir);
      t.diagnostic(
        `${image.stateReason} after ${Math.round(image.tookMs / 1000)} s; machine ${machineMiB.toFixed()} MiB, ` +
          `server ${memoryMiB(server.pid, 'VmHWM').toFixed()} MiB at most, log ${text.length} bytes`,
      );
      assert.equal(image.state, 'CREATE_FAILED');
      assert.match(image.stateReason ?? '', reason, text.slice(-4000));
      if (log !== undefined) assert.match(text, log);
      if (not !== undefined) assert.doesNotMatch(text, not);
      assert.ok(text.length < 20 * 1024 ** 2, 'the log is bounded');
      assert.ok(machineMiB < MOST_MACHINE_MIB, `the machine had ${machineMiB} MiB`);
      assert.ok(memoryMiB(server.pid, 'VmHWM') - serverMiB < MOST_SERVER_GROWTH_MIB, 'the server kept its memory');
      nothingIsLeft(server, name);
    });
  }

  test('the next build works', async () => {
    const image = await buildImage(server, 'next', counterApp);
    assert.equal(image.state, 'CREATED', `${image.stateReason}`);
  });
});

describe('a build on a host whose disk is small', { skip: skip || needsRoot }, () => {
  test('a step that fills the disk is ended before the host is full, and what it wrote is gone', async () => {
    await using stack = new AsyncDisposableStack();
    const disk = stack.use(await smallDisk(5 * 1024));
    const server = stack.use(await startServer({ stateDir: join(disk.dir, 'state'), args: ['--builder-keep', '0'] }));
    const image = await buildImage(server, 'filler', from('RUN head -c 15G /dev/urandom > /big'));
    assert.match(image.stateReason ?? '', /^DISK_STORAGE_FULL: The disk of this host ran full/);
    nothingIsLeft(server, 'filler');
    const next = await buildImage(server, 'next', counterApp);
    assert.equal(next.state, 'CREATED', `${next.stateReason}`);
  });
});

function portsOf(env: TestServer['env']): number[] {
  const urls = [env.AWS_ENDPOINT_URL_LAMBDA_MICROVMS, env.AWS_ENDPOINT_URL_S3];
  return urls.map((url) => Number(new URL(url ?? '').port));
}

function ownAddresses(): string[] {
  return Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address));
}

function nothingIsLeft({ stateDir, pid }: TestServer, name: string): void {
  const inFolder = (folder: string) => (existsSync(join(stateDir, folder)) ? readdirSync(join(stateDir, folder)) : []);
  assert.deepEqual(inFolder('builds'), [], 'no work folder is left');
  assert.deepEqual(inFolder('run'), [], 'no folder of a machine is left');
  assert.ok(!existsSync(join(stateDir, 'images', name, '1.0')), 'no half-made version is left');
  assert.deepEqual(machinesOf(pid), [], 'no machine is left');
  const mounts = readFileSync('/proc/mounts', 'utf8').split('\n');
  assert.deepEqual(
    mounts.filter((line) => line.includes(`${stateDir}/builds`) || line.includes(`${stateDir}/run`)),
    [],
  );
}

/** Processes of VMMs below the server, by what they have of memory. */
function machinesOf(serverPid: number): number[] {
  const parents = new Map<number, number>();
  for (const name of readdirSync('/proc')) {
    const status = /^\d+$/.test(name) ? read(`/proc/${name}/stat`) : '';
    const parent = /\) \S (\d+) /.exec(status)?.[1];
    if (parent !== undefined) parents.set(Number(name), Number(parent));
  }
  const isBelow = (pid: number): boolean => pid === serverPid || (pid > 1 && isBelow(parents.get(pid) ?? 0));
  const isMachine = (pid: number) => read(`/proc/${pid}/comm`).startsWith('qemu');
  return [...parents.keys()].filter((pid) => isBelow(pid) && isMachine(pid));
}

/** The most memory a machine of the server has had. */
function watchMachines(server: TestServer): { stop(): number } {
  let most = 0;
  const look = () => {
    for (const pid of machinesOf(server.pid)) most = Math.max(most, memoryMiB(pid, 'VmRSS'));
  };
  const timer = setInterval(look, 500);
  return {
    stop: () => {
      clearInterval(timer);
      return most;
    },
  };
}

function memoryMiB(pid: number, what: 'VmRSS' | 'VmHWM'): number {
  return Number(new RegExp(`^${what}:\\s+(\\d+)`, 'm').exec(read(`/proc/${pid}/status`))?.[1] ?? 0) / 1024;
}

function read(file: string): string {
  try {
    return readFileSync(file, 'latin1');
  } catch {
    return '';
  }
}
