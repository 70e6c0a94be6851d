/**
 * One set-up at a time per cache folder. The lock is SQLite's own on a small file: the kernel drops it with the process,
 * so a killed set-up leaves nothing stale behind.
 */
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as pause } from 'node:timers/promises';

/** Waits for the lock. `onWait` is called once when another set-up holds it. */
export async function acquireLock(
  path: string,
  options: { signal: AbortSignal; onWait: () => void; pollMs?: number },
): Promise<Disposable> {
  const database = new DatabaseSync(path, { timeout: 0 });
  for (let waits = 0; ; waits++) {
    try {
      database.exec('BEGIN EXCLUSIVE');
      return { [Symbol.dispose]: () => database.close() };
    } catch (error) {
      if (!(error instanceof Error) || !error.message.includes('locked')) {
        database.close();
        throw error;
      }
    }
    if (waits === 0) options.onWait();
    try {
      await pause(options.pollMs ?? 500, undefined, { signal: options.signal });
    } catch (error) {
      database.close();
      throw error;
    }
  }
}
