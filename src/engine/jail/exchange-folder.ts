/**
 * A VMM's working folder: where its sockets are and where device state is handed over, in both directions.
 *
 * Invariant: the server follows no name in it that the VMM could have made. It is the VMM's only until its sockets are there;
 * and where VMM and server are one user, links are refused and what is not an ordinary file or socket as well.
 */
import { constants } from 'node:fs';
import { chmod, chown, copyFile, type FileHandle, mkdir, open, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { MachineError } from '../../lib/index.ts';
import type { JailUser } from './bubblewrap.ts';

/** A handle for the thing itself, without opening it: Node has no name for it. */
const O_PATH = 0o10_000_000;

export class ExchangeFolder {
  readonly path: string;
  readonly #user: JailUser | undefined;

  private constructor(folder: string, user: JailUser | undefined) {
    this.path = folder;
    this.#user = user;
  }

  static async make(folder: string, user: JailUser | undefined): Promise<ExchangeFolder> {
    // Root without its capabilities goes there before it becomes the user; others do not get so far.
    await mkdir(folder);
    await chmod(folder, 0o711);
    if (user !== undefined) await chown(folder, user.uid, user.uid);
    return new ExchangeFolder(folder, user);
  }

  /** One that was made and closed by an earlier server. */
  static found(folder: string, user: JailUser | undefined): ExchangeFolder {
    return new ExchangeFolder(folder, user);
  }

  /** From now on the VMM makes, renames and removes nothing in it. */
  async close(): Promise<void> {
    if (this.#user === undefined) return;
    await chown(this.path, process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
  }

  /** Copies a file in under `name`, which the VMM may read. */
  async putIn(file: string, name: string): Promise<void> {
    const to = path.join(this.path, name);
    await rm(to, { force: true });
    await copyFile(file, to, constants.COPYFILE_EXCL);
    await chmod(to, this.#user === undefined ? 0o400 : 0o444);
  }

  /** Writes a text under `name`, which the VMM may read. */
  async hand(text: string, name: string): Promise<void> {
    const to = path.join(this.path, name);
    await writeFile(to, text, { flag: 'wx', mode: 0o600 });
    if (this.#user !== undefined) await chown(to, this.#user.uid, this.#user.uid);
  }

  async takeBack(name: string): Promise<void> {
    await rm(path.join(this.path, name), { force: true });
  }

  /** Makes an empty file that the VMM may write. */
  async prepare(name: string): Promise<void> {
    const to = path.join(this.path, name);
    await rm(to, { force: true });
    await writeFile(to, '', { flag: 'wx', mode: 0o600 });
    if (this.#user !== undefined) await chown(to, this.#user.uid, this.#user.uid);
  }

  /** Moves what the VMM wrote into a file of the server's. @throws MachineError `protocol` when it is something else */
  async takeOut(name: string, to: string, maxBytes: number): Promise<void> {
    const from = path.join(this.path, name);
    await using file = await open(from, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const found = await file.stat();
    if (!found.isFile() || found.size > maxBytes) {
      throw new MachineError('protocol', 'the VMM wrote something else than the state of its devices');
    }
    const bytes = Buffer.alloc(found.size);
    const { bytesRead } = await file.read(bytes, 0, bytes.length, 0);
    if (bytesRead !== bytes.length) throw new MachineError('protocol', "the VMM changed its devices' state afterwards");
    await writeFile(to, bytes, { mode: 0o600 });
    await rm(from, { force: true });
  }

  /**
   * A handle on a socket of the VMM's. Its path `/proc/self/fd/<fd>` leads to that very socket, however deep the state folder
   * is and whatever has its name by now.
   */
  async socket(name: string): Promise<FileHandle> {
    const handle = await open(path.join(this.path, name), O_PATH | constants.O_NOFOLLOW);
    const found = await handle.stat();
    if (found.isSocket()) return handle;
    await handle.close();
    throw new MachineError('protocol', 'the VMM put something else in the place of its socket');
  }
}
