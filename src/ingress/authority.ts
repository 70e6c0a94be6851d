/**
 * The local certificate authority and the one server certificate of the endpoint, kept in `<state>/tls/`.
 *
 * Made at first start; the server certificate is renewed when it has little left or was made by a clock that was ahead, the
 * authority only when it expires itself, because clients hold `ca.pem`. P-256 throughout: its handshake costs a tenth of RSA's.
 * Invariant: a key file is never readable by others, and a file under its final name is complete.
 */
import { createPrivateKey, X509Certificate as NodeCertificate, webcrypto } from 'node:crypto';
import { chmod, mkdir, open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock, Ids } from '../lib/index.ts';

export interface EndpointTls {
  /** What clients must trust; also the file for AWS_CA_BUNDLE. */
  readonly caFile: string;
  readonly caPem: string;
  readonly certPem: string;
  readonly keyPem: string;
}

const DAY_MS = 86_400_000;
const CA_DAYS = 3650;
/** Below the 398 days that some clients accept at most. */
const SERVER_DAYS = 397;
const RENEW_SERVER_BELOW_DAYS = 60;
const RENEW_CA_BELOW_DAYS = 365;
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const SERVER_NAMES = [
  { type: 'dns', value: 'localhost' },
  { type: 'ip', value: '127.0.0.1' },
  { type: 'ip', value: '::1' },
] as const;

/**
 * Reads what is there and makes what is missing, about to expire or not for `names` as well as the loopback's.
 * One server per folder: the caller holds its lock.
 */
export async function openAuthority(
  dir: string,
  options: { clock: Clock; ids: Ids; names?: readonly string[] },
): Promise<EndpointTls> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await chmod(dir, 0o700);
  const caFile = join(dir, 'ca.pem');
  const now = options.clock.now();
  const names = options.names ?? [];
  let ca = await readPair(dir, 'ca');
  let server = await readPair(dir, 'server');
  if (ca !== undefined && daysLeft(ca, now) < RENEW_CA_BELOW_DAYS) ca = undefined;
  if (ca === undefined || server?.certificate.checkIssued(ca.certificate) !== true) server = undefined;
  if (server !== undefined && daysLeft(server, now) < RENEW_SERVER_BELOW_DAYS) server = undefined;
  if (server !== undefined && isEarly(server.certificate, now)) server = undefined;
  if (server !== undefined && !isFor(server.certificate, names)) server = undefined;
  if (ca !== undefined && server !== undefined)
    return { caFile, caPem: ca.pem, certPem: server.pem, keyPem: server.keyPem };

  // Loaded only here: it costs more than everything else at a start that finds its certificates.
  await import('reflect-metadata');
  const issuer = new Issuer(await import('@peculiar/x509'), options.ids, now);
  const authority = ca ?? (await writePair(dir, 'ca', await issuer.authority()));
  const { pem, keyPem } = await writePair(dir, 'server', await issuer.server(authority, names));
  return { caFile, caPem: authority.pem, certPem: pem, keyPem };
}

interface Pair {
  readonly pem: string;
  readonly keyPem: string;
}

/** Undefined when a part is missing or damaged, or the two do not belong together: then both are made anew. */
async function readPair(dir: string, name: string): Promise<(Pair & { certificate: NodeCertificate }) | undefined> {
  try {
    const pem = await readFile(join(dir, `${name}.pem`), 'utf8');
    const keyPem = await readFile(join(dir, `${name}.key`), 'utf8');
    const certificate = new NodeCertificate(pem);
    return certificate.checkPrivateKey(createPrivateKey(keyPem)) ? { pem, keyPem, certificate } : undefined;
  } catch {
    return undefined;
  }
}

/** The key first: a crash in between leaves a pair that does not match, which the next start replaces. */
async function writePair(dir: string, name: string, pair: Pair): Promise<Pair> {
  await writeDurably(join(dir, `${name}.key`), pair.keyPem, 0o600);
  await writeDurably(join(dir, `${name}.pem`), pair.pem, 0o644);
  return pair;
}

function daysLeft(pair: { certificate: NodeCertificate }, now: number): number {
  return (pair.certificate.validToDate.getTime() - now) / DAY_MS;
}

/** Whether it is not valid yet: made while the host's clock was ahead. */
export function isEarly(certificate: NodeCertificate, now: number): boolean {
  return certificate.validFromDate.getTime() > now;
}

function isFor(certificate: NodeCertificate, names: readonly string[]): boolean {
  const held = (certificate.subjectAltName ?? '').split(', ');
  return names.every((name) => held.includes(`DNS:${name}`));
}

type X509 = typeof import('@peculiar/x509');

class Issuer {
  readonly #x509: X509;
  readonly #ids: Ids;
  readonly #now: number;

  constructor(x509: X509, ids: Ids, now: number) {
    this.#x509 = x509;
    this.#ids = ids;
    this.#now = now;
    x509.cryptoProvider.set(webcrypto);
  }

  async authority(): Promise<Pair> {
    const x509 = this.#x509;
    const keys = await generateKeys();
    const certificate = await x509.X509CertificateGenerator.createSelfSigned({
      serialNumber: this.#serial(),
      // The serial makes authorities of different state folders distinct in one trust store.
      name: `CN=Rekindle local authority ${this.#ids.bytes(4).toString('hex')}`,
      notBefore: new Date(this.#now - DAY_MS),
      notAfter: new Date(this.#now + CA_DAYS * DAY_MS),
      signingAlgorithm: ALGORITHM,
      keys,
      extensions: [
        new x509.BasicConstraintsExtension(true, 0, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    });
    return { pem: `${certificate.toString('pem')}\n`, keyPem: await exportKey(keys.privateKey) };
  }

  async server(ca: Pair, names: readonly string[]): Promise<Pair> {
    const x509 = this.#x509;
    const issuer = new x509.X509Certificate(ca.pem);
    const keys = await generateKeys();
    const certificate = await x509.X509CertificateGenerator.create({
      serialNumber: this.#serial(),
      subject: 'CN=localhost',
      issuer: issuer.subject,
      notBefore: new Date(this.#now - DAY_MS),
      notAfter: new Date(this.#now + SERVER_DAYS * DAY_MS),
      signingAlgorithm: ALGORITHM,
      publicKey: keys.publicKey,
      signingKey: await importKey(ca.keyPem),
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
        new x509.SubjectAlternativeNameExtension([
          ...SERVER_NAMES,
          ...names.map((value) => ({ type: 'dns', value }) as const),
        ]),
        // Python's verifier in strict mode (3.13 and later) refuses a leaf without it.
        await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    });
    return { pem: `${certificate.toString('pem')}\n`, keyPem: await exportKey(keys.privateKey) };
  }

  /** Positive and without a leading zero byte, as RFC 5280 asks. */
  #serial(): string {
    return `5${this.#ids.bytes(15).toString('hex')}0`;
  }
}

function generateKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
}

function importKey(pem: string): Promise<webcrypto.CryptoKey> {
  const der = Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ''), 'base64');
  return webcrypto.subtle.importKey('pkcs8', der, ALGORITHM, false, ['sign']);
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  const base64 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', key)).toString('base64');
  const lines = base64.match(/.{1,64}/g) ?? [];
  return `-----BEGIN PRIVATE KEY-----\n${lines.join('\n')}\n-----END PRIVATE KEY-----\n`;
}

async function writeDurably(path: string, content: string, mode: number): Promise<void> {
  const temporary = `${path}.new`;
  const file = await open(temporary, 'w', mode);
  try {
    await file.chmod(mode);
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}
