/**
 * Whether KVM really runs a guest. The presence of /dev/kvm proves nothing: software-nested hosts offer it and then emulate
 * kernel mode at a few million instructions a second and without instructions every stock kernel needs.
 *
 * A flat BIOS loops two million times in real mode and then writes to QEMU's debug-exit port. A working KVM is through in a
 * few milliseconds; a host that is not within the limit is treated as one without KVM.
 */
import { spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { access, type FileHandle, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Runtime } from '../runtime.ts';

const PROBE_LIMIT_MS = 400;
const LOOPS = 2_000_000;
const BIOS_BYTES = 65_536;
/** isa-debug-exit turns the written 0x15 into (0x15 << 1) | 1. */
const FINISHED = 43;

export type KvmVerdict = { readonly usable: true } | { readonly usable: false; readonly why: string };

export async function probeKvm(qemu: Runtime['qemu']): Promise<KvmVerdict> {
  try {
    await access('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    return { usable: false, why: missing ? 'there is no /dev/kvm' : '/dev/kvm may not be opened by this user' };
  }
  const code = await exitCode(qemu);
  if (code === FINISHED) return { usable: true };
  return { usable: false, why: '/dev/kvm exists, but a test guest did not run on it at native speed' };
}

/** mov ecx, n; dec ecx; jnz; mov al, 0x15; out 0xf4, al; hlt; with the reset vector jumping to the start. */
export function probeBios(): Buffer {
  const bios = Buffer.alloc(BIOS_BYTES, 0x90);
  const loops = Buffer.alloc(4);
  loops.writeUInt32LE(LOOPS);
  Buffer.concat([Buffer.from('66b9', 'hex'), loops, Buffer.from('664975fcb015e6f4f4ebfd', 'hex')]).copy(bios);
  Buffer.from('ea000000f0', 'hex').copy(bios, 0xfff0);
  return bios;
}

/** Exit code of the probe guest; undefined when it was still running at the limit or could not be started. */
export async function exitCode(qemu: Runtime['qemu'], accelerator = 'kvm', limitMs = PROBE_LIMIT_MS) {
  await using bios = await namelessFile(probeBios());
  const args = [
    ...qemu.dataDirs.flatMap((dir) => ['-L', dir]),
    ...['-accel', accelerator, '-M', 'microvm,pit=off,pic=off,rtc=off,isa-serial=off,acpi=off', '-cpu', 'max'],
    ...['-m', '8M', '-nodefaults', '-no-user-config', '-display', 'none', '-bios', '/proc/self/fd/3'],
    ...['-device', 'isa-debug-exit,iobase=0xf4,iosize=1'],
  ];
  const stdio = ['ignore', 'ignore', 'ignore', bios.fd] as const;
  const vmm = spawn(qemu.binary, args, { stdio: [...stdio], timeout: limitMs, killSignal: 'SIGKILL' });
  return new Promise<number | undefined>((resolve) => {
    vmm.once('error', () => resolve(undefined));
    vmm.once('exit', (code) => resolve(code ?? undefined));
  });
}

/** Nothing is left of it, however this process ends. */
async function namelessFile(bytes: Buffer): Promise<FileHandle> {
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-kvm-'));
  try {
    const path = join(dir, 'probe.bin');
    await writeFile(path, bytes);
    return await open(path);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
