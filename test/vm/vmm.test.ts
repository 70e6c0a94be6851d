/** The VMM contract on QEMU: real guests, without root disk or app. */
import assert from 'node:assert/strict';
import { loadConfig } from '../../src/config.ts';
import { probeHost } from '../../src/engine/host/host.ts';
import { openJail } from '../../src/engine/jail/open-jail.ts';
import { findRuntime } from '../../src/engine/load-runtime.ts';
import { kernelLine } from '../../src/engine/vmm/qemu/command-line.ts';
import { qemuDriver } from '../../src/engine/vmm/qemu/driver.ts';
import { vmmContract } from '../../src/engine/vmm/vmm.contract.ts';

const { cacheDir, stateDir } = loadConfig({}, process.env);
const runtime = findRuntime(cacheDir);

vmmContract('QEMU', runtime === undefined ? 'set-up has not run: no runtime.json' : false, async () => {
  assert.ok(runtime);
  const host = await probeHost(runtime, stateDir);
  const jail = await openJail(runtime, stateDir, host);
  const { accelerator } = host.report;
  const driver = qemuDriver({ version: runtime.qemu.version, accelerator, deltaSave: true, jail });
  const { kernel, initramfs } = runtime.guest;
  const boot = { kernel, initramfs, kernelLine: kernelLine(runtime.tscKhz, driver.accelerator) };
  return { driver, boot, crash: (vmm) => process.kill(vmm.pid, 'SIGKILL') };
});
