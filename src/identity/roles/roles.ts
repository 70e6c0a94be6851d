/**
 * Vends the credentials of roles: which source a role has, who may pass it, what was revoked; keeps what was given until it
 * is due for renewal, and says when any of that changed.
 *
 * Invariant: one request per role and session at a time; nothing is given for a role that is revoked; a roles file that
 * cannot be read changes nothing.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import path from 'node:path';
import { type Clock, DomainError, type Logger, messageOf, withDeadline } from '../../lib/index.ts';
import type { Store } from '../../store/index.ts';
import { Keeping } from './keeping.ts';
import { openRevocations, type Revocations, type RevokedRole } from './revocations.ts';
import {
  type CredentialTarget,
  type Lease,
  notAssumable,
  type RoleCredentials,
  renewalOf,
  SourceError,
} from './role-credentials.ts';
import { NO_ROLES, parseRoles, type Role, type RolePlan, type RoleSource } from './roles-file.ts';
import { ask, type Environment } from './sources.ts';
import { trusts } from './trust.ts';
import { WatchedFiles } from './watched-files.ts';

export interface Roles {
  /** Whether somebody may pass the role to a microVM or build now. @throws DomainError DENIED, INVALID */
  demandPass(roleArn: string, principal: string | undefined): void;
  /** @throws DomainError INVALID, DENIED, without the reason's details; SourceError is the cause */
  credentialsFor(
    roleArn: string,
    options: { sessionName: string; signal?: AbortSignal | undefined },
  ): Promise<RoleCredentials>;
  /**
   * Gives the target its role's credentials and keeps them fresh until the result is disposed, which leaves those it has.
   * Rejects when there are none to begin with, unless `patient`, in which case they come when they can be had. `mayHold`:
   * the target may have some of before.
   * @throws DomainError, MachineError
   */
  keep(
    target: CredentialTarget,
    lease: Lease,
    options: { patient?: boolean; mayHold?: boolean; signal?: AbortSignal | undefined },
  ): Promise<AsyncDisposable>;
  /** Takes the role's credentials back from whoever has them, until `restore`. Idempotent. */
  revoke(roleArn: string): Promise<void>;
  /** @throws DomainError NOT_FOUND */
  restore(roleArn: string): Promise<void>;
  revoked(): readonly RevokedRole[];
}

export interface RolesOptions {
  /** Undefined: no role has a source. */
  readonly file: string | undefined;
  /** The server's environment, for sources that name variables. */
  readonly environment: Environment;
  readonly store: Store;
  readonly clock: Clock;
  readonly log: Logger;
}

/** Sources without an end of their own: renewed by then. Source: what the service's documents show at launch. */
const STATIC_LIFETIME_MS = 3_600_000;
const ASK_TIMEOUT_MS = 60_000;
/** Given less than this, a client would be left with nothing before it could ask again. */
const LEAST_LIFE_MS = 30_000;
const MAX_ROLES_FILE_BYTES = 16 * 1024 * 1024;
/** Sessions whose credentials are remembered before expired ones are looked for. */
const PRUNE_AT = 1000;

interface Given {
  readonly roleArn: string;
  readonly credentials: RoleCredentials;
}

/** @throws DomainError INVALID when the file cannot be used */
export async function openRoles(options: RolesOptions): Promise<RoleVendor> {
  const revocations = await openRevocations(options.store, options.clock);
  const vendor = new RoleVendor(options, revocations);
  await vendor.load();
  return vendor;
}

export class RoleVendor implements Roles, AsyncDisposable {
  readonly #o: RolesOptions;
  readonly #revocations: Revocations;
  readonly #files: WatchedFiles;
  readonly #keepings = new Set<Keeping>();
  readonly #given = new Map<string, Given>();
  readonly #asked = new Map<string, Promise<RoleCredentials>>();
  readonly #closing = new AbortController();
  #plan: RolePlan = NO_ROLES;

  constructor(options: RolesOptions, revocations: Revocations) {
    this.#o = options;
    this.#revocations = revocations;
    this.#files = new WatchedFiles(options.clock, (paths) => this.#filesChanged(paths));
  }

  async load(): Promise<void> {
    if (this.#o.file === undefined) return;
    await this.#files.watch([this.#o.file]);
    this.#plan = await readRolesFile(this.#o.file);
    await this.#watch();
  }

  demandPass(roleArn: string, principal: string | undefined): void {
    const role = this.#plan.roles.get(roleArn);
    if (this.#revocations.has(roleArn)) {
      throw new DomainError(
        'DENIED',
        `The role ${roleArn} is revoked. Restore it first: rekindle identity role restore`,
      );
    }
    if (!trusts(role?.trust ?? null, principal)) {
      throw new DomainError(
        'DENIED',
        `The role ${roleArn} cannot be passed by ${principal ?? 'an unknown caller'}: its trust does not cover it.`,
      );
    }
    if (this.#plan.requireSource && role?.source == null) {
      throw new DomainError('INVALID', `The role ${roleArn} has no source of credentials on this server.`);
    }
  }

  async credentialsFor(
    roleArn: string,
    { sessionName, signal }: { sessionName: string; signal?: AbortSignal | undefined },
  ): Promise<RoleCredentials> {
    const source = this.#plan.roles.get(roleArn)?.source;
    if (this.#revocations.has(roleArn)) throw new DomainError('DENIED', `The role ${roleArn} is revoked.`);
    if (source == null) throw notAssumable(roleArn, new SourceError('gone', 'It has no source.'));
    const key = `${roleArn} ${sessionName}`;
    const before = this.#given.get(key)?.credentials;
    const now = this.#o.clock.now();
    if (before !== undefined && now < before.renewAt) return before;
    let asked = this.#asked.get(key);
    if (asked === undefined) {
      asked = this.#ask(roleArn, source, sessionName).finally(() => this.#asked.delete(key));
      asked.catch(() => {});
      this.#asked.set(key, asked);
    }
    try {
      return await withDeadline('asking for credentials', ASK_TIMEOUT_MS, () => asked, { signal });
    } catch (error) {
      signal?.throwIfAborted();
      const isLost = error instanceof SourceError && error.kind === 'gone';
      const log = { roleArn, session: sessionName, reason: messageOf(error) };
      this.#o.log.warn(log, 'the source of a role gave no credentials');
      if (before !== undefined && !isLost && before.expiresAt - LEAST_LIFE_MS > this.#o.clock.now()) return before;
      throw notAssumable(roleArn, error);
    }
  }

  async keep(
    target: CredentialTarget,
    lease: Lease,
    options: { patient?: boolean; mayHold?: boolean; signal?: AbortSignal | undefined },
  ): Promise<AsyncDisposable> {
    const keeping = new Keeping(this, target, lease, {
      clock: this.#o.clock,
      log: this.#o.log,
      mayHold: options.mayHold ?? false,
      onDispose: () => void this.#keepings.delete(keeping),
    });
    this.#keepings.add(keeping);
    try {
      await (options.patient === true ? keeping.beginPatiently() : keeping.begin(options.signal));
      return keeping;
    } catch (error) {
      await keeping[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** `given`: credentials are to be had; `none`: there is no source; `withdrawn`: they must not be had. */
  standing({ roleArn, principal }: Lease): 'given' | 'none' | 'withdrawn' {
    const role = this.#plan.roles.get(roleArn);
    if (this.#revocations.has(roleArn) || !trusts(role?.trust ?? null, principal)) return 'withdrawn';
    return role?.source == null ? 'none' : 'given';
  }

  async revoke(roleArn: string): Promise<void> {
    await this.#revocations.add(roleArn);
    this.#forget(new Set([roleArn]));
    this.#o.log.info({ roleArn }, 'role revoked');
  }

  async restore(roleArn: string): Promise<void> {
    await this.#revocations.remove(roleArn);
    this.#forget(new Set([roleArn]));
    this.#o.log.info({ roleArn }, 'role restored');
  }

  revoked(): readonly RevokedRole[] {
    return this.#revocations.list();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#files[Symbol.dispose]();
    this.#closing.abort(new Error('the server is stopping'));
    await Promise.allSettled([...this.#keepings].map((keeping) => keeping[Symbol.asyncDispose]()));
    await Promise.allSettled([...this.#asked.values()]);
    this.#given.clear();
  }

  async #ask(roleArn: string, source: RoleSource, sessionName: string): Promise<RoleCredentials> {
    const plan = this.#plan;
    const { environment, clock } = this.#o;
    const found = await withDeadline(
      'asking for credentials',
      ASK_TIMEOUT_MS,
      (signal) => ask(source, { sessionName, environment, signal }),
      { signal: this.#closing.signal },
    );
    const now = clock.now();
    const credentials = { ...found, expiresAt: found.expiresAt ?? now + STATIC_LIFETIME_MS };
    if (credentials.expiresAt - now < LEAST_LIFE_MS)
      throw new SourceError('failed', 'The credentials have expired, or are about to.');
    const { accessKeyId, secretAccessKey, sessionToken, expiresAt } = credentials;
    const given = { accessKeyId, secretAccessKey, sessionToken, expiresAt, renewAt: renewalOf(expiresAt, now) };
    // The roles may be others by now, and this is an answer to an old question then.
    if (plan === this.#plan && !this.#revocations.has(roleArn)) {
      this.#prune(now);
      this.#given.set(`${roleArn} ${sessionName}`, { roleArn, credentials: given });
    }
    return given;
  }

  #prune(now: number): void {
    if (this.#given.size < PRUNE_AT) return;
    for (const [key, { credentials }] of this.#given) if (credentials.expiresAt <= now) this.#given.delete(key);
  }

  async #filesChanged(paths: ReadonlySet<string>): Promise<void> {
    const { file, log } = this.#o;
    const changed = new Set<string>();
    if (file !== undefined && paths.has(file)) {
      try {
        const next = await readRolesFile(file);
        for (const arn of new Set([...this.#plan.roles.keys(), ...next.roles.keys()])) {
          if (JSON.stringify(this.#plan.roles.get(arn)) !== JSON.stringify(next.roles.get(arn))) changed.add(arn);
        }
        this.#plan = next;
        log.info({ roles: next.roles.size, changed: changed.size }, 'the roles file was read again');
      } catch (error) {
        log.error({ reason: messageOf(error) }, 'the roles file cannot be used; the roles stay as they are');
      }
    }
    for (const [arn, { source }] of this.#plan.roles) if (pathsOf(source).some((p) => paths.has(p))) changed.add(arn);
    this.#forget(changed);
    await this.#watch();
  }

  /** What was given for these roles is not to be given again, and whoever has it is told. */
  #forget(roleArns: ReadonlySet<string>): void {
    for (const [key, { roleArn }] of this.#given) if (roleArns.has(roleArn)) this.#given.delete(key);
    for (const key of this.#asked.keys()) if (roleArns.has(key.slice(0, key.indexOf(' ')))) this.#asked.delete(key);
    for (const keeping of this.#keepings) if (roleArns.has(keeping.roleArn)) keeping.changed();
  }

  async #watch(): Promise<void> {
    const paths = [...this.#plan.roles.values()].flatMap(({ source }) => pathsOf(source));
    await this.#files.watch(new Set([...(this.#o.file === undefined ? [] : [this.#o.file]), ...paths]));
  }
}

function pathsOf(source: Role['source']): readonly string[] {
  if (source?.kind === 'file') return [source.path];
  return source?.kind === 'assume-role' ? pathsOf(source.caller) : [];
}

/** @throws DomainError INVALID */
async function readRolesFile(file: string): Promise<RolePlan> {
  let text: string;
  let mode: number;
  try {
    await using handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
    const stats = await handle.stat();
    if (!stats.isFile() || stats.size > MAX_ROLES_FILE_BYTES) throw new Error('it is no file, or over 16 MiB');
    ({ mode } = stats);
    text = await handle.readFile('utf8');
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code ?? messageOf(error);
    throw new DomainError('INVALID', `The roles file cannot be read: ${reason}.`, { cause: error });
  }
  const plan = parseRoles(text, path.dirname(path.resolve(file)));
  const holdsKeys = [...plan.roles.values()].some(({ source }) =>
    source?.kind === 'assume-role' ? source.caller.kind === 'static' : source?.kind === 'static',
  );
  if (holdsKeys && (mode & 0o077) !== 0) {
    throw new DomainError('INVALID', 'The roles file holds keys and others than its owner may read it: chmod 600.');
  }
  return plan;
}
