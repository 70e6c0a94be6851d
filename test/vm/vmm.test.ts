/** The VMM contract on QEMU: real guests, without root disk or app. */
import assert from 'node:assert/strict';
import { loadConfig } from '../../src/config.ts';
import { inspectHost } from '../../src/engine/host/inspect.ts';
import { findRuntime } from '../../src/engine/load-runtime.ts';
import { kernelLine } from '../../src/engine/vmm/qemu/command-line.ts';
import { qemuDriver } from '../../src/engine/vmm/qemu/driver.ts';
import { vmmContract } from '../../src/engine/vmm/vmm.contract.ts';

const { cacheDir, stateDir } = loadConfig({}, process.env);
const runtime = findRuntime(cacheDir);

vmmContract('QEMU', runtime === undefined ? 'set-up has not run: no runtime.json' : false, async () => {
  assert.ok(runtime);
  const checks = await inspectHost({ runtime, stateDir });
  const hasKvm = checks.some((check) => check.id === 'accelerator' && check.ok === 'yes');
  const driver = qemuDriver({ qemu: runtime.qemu, accelerator: hasKvm ? 'kvm' : 'tcg', deltaSave: true });
  const { kernel, initramfs } = runtime.guest;
  const boot = { kernel, initramfs, kernelLine: kernelLine(runtime.tscKhz, driver.accelerator) };
  return { driver, boot, crash: (vmm) => process.kill(vmm.pid, 'SIGKILL') };
});
