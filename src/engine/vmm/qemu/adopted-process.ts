/**
 * A QEMU process that is not this server's child: its end shows at its control socket, and it is known by its start, not by
 * its number alone. What it prints itself now goes nowhere, what its guest prints comes as before.
 */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import path from 'node:path';
import { isAlive, type ProcessRecord } from '../../jail/record.ts';
import type { ProcessEnd, VmmProcess } from './driver.ts';
import { CONSOLE_LOG, Tail, VMM_LOG } from './tail.ts';

const END_TIMEOUT_MS = 5000;
const POLL_MS = 10;
/** Its guest's last words may come a moment after its end. */
const LAST_WORDS_MS = 100;
const EVIDENCE_BYTES = 4096;

export class AdoptedProcess implements VmmProcess {
  readonly pid: number;
  readonly exited: Promise<ProcessEnd>;
  readonly #record: ProcessRecord;
  readonly #runDir: string;
  readonly #gone = Promise.withResolvers<ProcessEnd>();
  #console: { readonly socket: Socket; readonly tail: Tail; readonly ended: Promise<unknown> } | undefined;
  #isEnding = false;

  constructor(record: ProcessRecord, runDir: string, control: Socket) {
    this.pid = record.pid;
    this.exited = this.#gone.promise;
    this.#record = record;
    this.#runDir = runDir;
    // A VMM that closes its control channel is of no use any more, whether it ends or not.
    control.once('close', () => void this.#end());
  }

  reads(socket: Socket): void {
    const ended = once(socket, 'close').catch(() => {});
    this.#console = { socket, ended, tail: new Tail(socket, path.join(this.#runDir, CONSOLE_LOG)) };
  }

  evidence(): string {
    const vmm = lastOf(path.join(this.#runDir, VMM_LOG));
    return [vmm.trimEnd(), ...(this.#console?.tail.lines() ?? [])].filter(Boolean).join('\n');
  }

  letGo(): void {
    this.#isEnding = true;
    this.#console?.socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end();
  }

  async #end(): Promise<void> {
    if (!this.#isEnding) {
      this.#isEnding = true;
      if (isAlive(this.#record)) kill(this.pid);
      for (let waited = 0; isAlive(this.#record) && waited < END_TIMEOUT_MS; waited += POLL_MS) {
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
      const message = isAlive(this.#record) ? 'the VMM does not die' : 'the VMM ended';
      await Promise.race([this.#console?.ended, new Promise((resolve) => setTimeout(resolve, LAST_WORDS_MS))]);
      this.#console?.socket.destroy();
      this.#gone.resolve({ message, evidence: this.evidence() });
    }
    await this.exited;
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It is just ending.
  }
}

function lastOf(file: string): string {
  try {
    return readFileSync(file, 'utf8').slice(-EVIDENCE_BYTES);
  } catch {
    return '';
  }
}
