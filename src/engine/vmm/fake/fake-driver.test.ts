import { vmmContract } from '../vmm.contract.ts';
import { fakeDriver } from './fake-driver.ts';

vmmContract('fake', false, async () => {
  const driver = fakeDriver();
  return { driver, boot: { kernel: '', initramfs: '', kernelLine: '' }, crash: (vmm) => driver.crash(vmm) };
});
