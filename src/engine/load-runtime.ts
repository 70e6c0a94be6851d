/** Finds what set-up left in the cache folder. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { DomainError } from '../lib/index.ts';
import type { Runtime } from './runtime.ts';

/** @throws DomainError `INVALID` telling to run set-up, when it has not run or was for another generation */
export function loadRuntime(cacheDir: string): Runtime {
  const runtime = findRuntime(cacheDir);
  if (runtime === undefined) {
    throw new DomainError('INVALID', 'QEMU, guest kernel and base image are missing: run `npm run setup` once');
  }
  if (runtime.jail === undefined || runtime.gateway === undefined)
    throw new DomainError('INVALID', 'set-up is older than this server: run `npm run setup` again');
  const missing = [
    runtime.qemu.binary,
    runtime.jail.root,
    runtime.gateway.program,
    runtime.guest.kernel,
    runtime.guest.initramfs,
    runtime.base.disk,
    runtime.builder.disk,
  ];
  if (!missing.every((file) => existsSync(file))) {
    throw new DomainError('INVALID', 'a part of the runtime was deleted: run `npm run setup` again');
  }
  return runtime;
}

/** The same, or undefined when there is none that fits. */
export function findRuntime(cacheDir: string): Runtime | undefined {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path.join(cacheDir, 'runtime/runtime.json'), 'utf8'));
  } catch {
    return undefined;
  }
  const runtime = value as Runtime;
  return runtime?.generation === 1 ? runtime : undefined;
}
