/** The host's TSC frequency: measured once per boot, since a virtual machine may wake up on another host. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './command.ts';
import type { GoProgram } from './go-programs.ts';
import type { SetupContext } from './setup-context.ts';

export async function measureTscKhz(context: SetupContext, program: GoProgram): Promise<number> {
  const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const path = join(context.cacheDir, 'runtime/tsc.json');
  if (existsSync(path)) {
    const known = JSON.parse(await readFile(path, 'utf8')) as { boot: string; program: string; kHz: number };
    if (known.boot === boot && known.program === program.digest) return known.kHz;
  }
  const output = await run([program.path], { env: context.env, signal: context.signal, timeoutMs: 30_000 });
  const kHz = Number(output);
  if (!Number.isInteger(kHz) || kHz < 100_000) throw new Error(`no sensible TSC frequency: ${output}`);
  await mkdir(join(context.cacheDir, 'runtime'), { recursive: true });
  await writeFile(`${path}.new`, JSON.stringify({ boot, program: program.digest, kHz }));
  await rename(`${path}.new`, path);
  context.say(`TSC ${kHz} kHz`);
  return kHz;
}
