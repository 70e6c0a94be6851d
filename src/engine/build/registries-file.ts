/**
 * The operator's file of container registries (`--registries`, docs/IMAGES.md): credentials, mirrors, plain HTTP, what
 * other names a FROM may stand for, certificates that builds believe.
 *
 * Invariant: read whole or refused with a sentence naming the member, never with a secret; unknown members are refused.
 */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { DomainError, type Logger, messageOf } from '../../lib/index.ts';

export interface Registry {
  /** `host[:port][/path]`, asked in this order before the registry itself. */
  readonly mirrors?: readonly string[];
  /** Plain HTTP. */
  readonly http?: boolean;
  readonly username?: string;
  readonly password?: string;
  /** A bearer token, instead of a name and password. */
  readonly token?: string;
}

/** What the program in the builder reads (agent/cmd/build/settings.go). */
export interface BuilderSettings {
  readonly registries: Readonly<Record<string, Registry>>;
  /** What a FROM says to what it gets. */
  readonly aliases: Readonly<Record<string, string>>;
  /** PEM; empty: none. */
  readonly trust: string;
  /** Near names mean the managed bases. */
  readonly offline: boolean;
}

/** What builds are told, as it is now. */
export interface Registries {
  current(): Promise<BuilderSettings>;
}

/** It reaches the builder in one message of 64 KiB, as text within text. */
const MAX_BYTES = 24 * 1024;
const HOST = /^(?=.{1,260}$)(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::\d{1,5})?$/;
const HOST_FORM = 'the host[:port] of a registry in lower case, such as docker.io or registry.example.com:5000';
const MIRROR = /^[a-z0-9][a-z0-9.:[\]-]{0,260}(?:\/[a-z0-9][a-z0-9._/-]{0,260})?$/;
const NAME = /^[a-z0-9][a-z0-9.:_/-]{0,500}(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$/;
const NAME_FORM = 'the name of an image, such as registry.example.com/team/python:3.12';

/** @throws DomainError INVALID when the file cannot be read or says something wrong */
export async function openRegistries(file: string, log: Logger): Promise<Registries> {
  let last = await readRegistries(file);
  return {
    async current() {
      try {
        last = await readRegistries(file);
      } catch (error) {
        log.error({ file, error: messageOf(error) }, 'the registries file is wrong; what it said before still holds');
      }
      return last;
    },
  };
}

async function readRegistries(file: string): Promise<BuilderSettings> {
  const text = await readText(file, 'The registries file');
  const parsed = parseRegistries(text);
  const hasSecret = Object.values(parsed.registries).some(
    ({ password, token }) => password !== undefined || token !== undefined,
  );
  if (hasSecret && ((await stat(file)).mode & 0o077) !== 0) {
    throw new DomainError(
      'INVALID',
      'The registries file holds credentials and others on this host can read it: run chmod 600 on it.',
    );
  }
  const trust =
    parsed.certificates === undefined
      ? ''
      : await readCertificates(path.resolve(path.dirname(file), parsed.certificates));
  const settings = { registries: parsed.registries, aliases: parsed.aliases, offline: parsed.offline, trust };
  if (Buffer.byteLength(JSON.stringify(settings)) > MAX_BYTES) {
    throw new DomainError('INVALID', 'The registries file and its certificates are larger than 24 KiB together.');
  }
  return settings;
}

/** @throws DomainError INVALID naming the member and what it must be */
export function parseRegistries(text: string): Omit<BuilderSettings, 'trust'> & { readonly certificates?: string } {
  let found: unknown;
  try {
    found = JSON.parse(text);
  } catch {
    // Its message quotes the text, which may hold a password.
    throw new DomainError('INVALID', 'The registries file is not valid JSON.');
  }
  const file = members(found, 'the file', ['registries', 'aliases', 'certificates', 'offline']);
  const registries = Object.entries(object(file.registries ?? {}, 'registries')).map(([host, value]) => {
    if (!HOST.test(host)) throw refused(`registries: ${JSON.stringify(host)} must be ${HOST_FORM}`);
    return [host, registryOf(value, `registries.${host}`)] as const;
  });
  const aliases = Object.entries(object(file.aliases ?? {}, 'aliases')).map(([from, to]) => {
    if (!NAME.test(from)) throw refused(`aliases: ${JSON.stringify(from)} must be ${NAME_FORM}`);
    if (typeof to !== 'string' || !NAME.test(to)) throw refused(`aliases.${from} must be ${NAME_FORM}`);
    return [from, to] as const;
  });
  const certificates = word(file.certificates, 'certificates', 'the path of a PEM file');
  return {
    registries: Object.fromEntries(registries),
    aliases: Object.fromEntries(aliases),
    offline: flag(file.offline, 'offline') ?? false,
    ...(certificates !== undefined && { certificates }),
  };
}

function registryOf(value: unknown, at: string): Registry {
  const registry = members(value, at, ['mirrors', 'http', 'username', 'password', 'token']);
  const { mirrors } = registry;
  if (
    mirrors !== undefined &&
    !(Array.isArray(mirrors) && mirrors.every((one) => typeof one === 'string' && MIRROR.test(one)))
  ) {
    throw refused(`${at}.mirrors must be a list of host[:port][/path], such as ["mirror.example.com/hub"]`);
  }
  const http = flag(registry.http, `${at}.http`);
  const username = word(registry.username, `${at}.username`, 'a user name without a colon');
  if (username?.includes(':')) throw refused(`${at}.username must be a user name without a colon`);
  const password = word(registry.password, `${at}.password`, 'a text that is not empty');
  const token = word(registry.token, `${at}.token`, 'a text that is not empty');
  if ((username === undefined) !== (password === undefined)) {
    throw refused(`${at} must have both username and password, or neither`);
  }
  if (token !== undefined && password !== undefined) throw refused(`${at} must have a token or a password, not both`);
  return {
    ...(mirrors !== undefined && { mirrors: mirrors as readonly string[] }),
    ...(http !== undefined && { http }),
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password }),
    ...(token !== undefined && { token }),
  };
}

async function readCertificates(file: string): Promise<string> {
  const text = await readText(file, 'The file of certificates');
  const found = text.match(/-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----/g);
  // Only certificates go on: the file may hold a key by mistake.
  if (found === null) throw refused('certificates names a file without a certificate in PEM');
  return `${found.join('\n')}\n`;
}

async function readText(file: string, what: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new DomainError('INVALID', `${what} cannot be read: ${messageOf(error)}`, { cause: error });
  }
}

function members(value: unknown, at: string, known: readonly string[]): Readonly<Record<string, unknown>> {
  const found = object(value, at);
  const stranger = Object.keys(found).find((key) => !known.includes(key));
  if (stranger !== undefined)
    throw refused(`${at} has the unknown member "${stranger}"; known are ${known.join(', ')}`);
  return found;
}

function object(value: unknown, at: string): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw refused(`${at} must be an object`);
  return value as Readonly<Record<string, unknown>>;
}

function flag(value: unknown, at: string): boolean | undefined {
  if (value !== undefined && typeof value !== 'boolean') throw refused(`${at} must be true or false`);
  return value;
}

function word(value: unknown, at: string, form: string): string | undefined {
  if (value === undefined) return undefined;
  if (typeof value !== 'string' || value === '') throw refused(`${at} must be ${form}`);
  return value;
}

function refused(what: string): DomainError {
  return new DomainError('INVALID', `In the registries file, ${what}.`);
}
