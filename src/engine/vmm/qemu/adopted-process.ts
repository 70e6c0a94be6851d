/**
 * A QEMU process that is not this server's child: its end shows at its control socket, and it is known by its start, not by
 * its number alone. What it prints now goes nowhere; what it had printed is in its log.
 */
import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import path from 'node:path';
import { isAlive, type ProcessRecord } from '../../jail/record.ts';
import type { VmmExit } from '../vmm.ts';
import type { VmmProcess } from './driver.ts';

const END_TIMEOUT_MS = 5000;
const POLL_MS = 10;
const EVIDENCE_BYTES = 4096;

export class AdoptedProcess implements VmmProcess {
  readonly pid: number;
  readonly exited: Promise<VmmExit>;
  readonly #record: ProcessRecord;
  readonly #runDir: string;
  readonly #gone = Promise.withResolvers<VmmExit>();
  #isEnding = false;

  constructor(record: ProcessRecord, runDir: string, control: Socket) {
    this.pid = record.pid;
    this.exited = this.#gone.promise;
    this.#record = record;
    this.#runDir = runDir;
    // A VMM that closes its control channel is of no use any more, whether it ends or not.
    control.once('close', () => void this.#end());
  }

  evidence(): string {
    return ['vmm.log', 'console.log'].map((name) => lastOf(path.join(this.#runDir, name))).join('');
  }

  letGo(): void {
    this.#isEnding = true;
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
