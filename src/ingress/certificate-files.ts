/**
 * The operator's own certificate for endpoints: read and checked at start, so that what no client would accept is refused
 * with a sentence, and by the same check whenever the files change.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';
import { DomainError, messageOf } from '../lib/index.ts';

export interface CertificateFiles {
  readonly certFile: string;
  readonly keyFile: string;
}

export interface CertificatePair {
  readonly certPem: string;
  readonly keyPem: string;
  /** ms since the epoch. */
  readonly expiresAt: number;
}

const MAX_BYTES = 1024 * 1024;

/** `name` is one that clients will ask for. @throws DomainError INVALID */
export async function readCertificate(files: CertificateFiles, name: string, now: number): Promise<CertificatePair> {
  const { certFile, keyFile } = files;
  const certPem = await readText('--endpoint-cert', certFile);
  const keyPem = await readText('--endpoint-key', keyFile);
  const [leaf, ...chain] = certificatesIn(certPem, certFile);
  if (leaf === undefined) throw wrong(`${certFile} holds no certificate; it must hold PEM blocks BEGIN CERTIFICATE.`);
  const key = privateKeyIn(keyPem, keyFile);
  if (!leaf.checkPrivateKey(key)) {
    const later = chain.some((certificate) => certificate.checkPrivateKey(key));
    throw wrong(
      later
        ? `${certFile} must begin with the endpoints' own certificate; the chain comes after it.`
        : `The key in ${keyFile} does not belong to the certificate in ${certFile}.`,
    );
  }
  const [from, until] = [leaf.validFromDate, leaf.validToDate];
  if (until.getTime() <= now)
    throw wrong(`The certificate in ${certFile} expired on ${until.toISOString()}. Renew it.`);
  if (from.getTime() > now) throw wrong(`The certificate in ${certFile} is valid only from ${from.toISOString()} on.`);
  if (leaf.checkHost(name, { subject: 'never' }) === undefined) {
    const held = leaf.subjectAltName ?? 'no name at all';
    const wanted = name.replace(/^[^.]+(?=\.)/, '*');
    throw wrong(`The certificate in ${certFile} must be for ${wanted}, but is for ${held}.`);
  }
  try {
    createSecureContext({ cert: certPem, key: keyPem, minVersion: 'TLSv1.2' });
  } catch (error) {
    throw wrong(`TLS does not take the certificate in ${certFile}: ${messageOf(error)}`, error);
  }
  return { certPem, keyPem, expiresAt: until.getTime() };
}

/** Changes whenever one of the files does. */
export async function stampOf(files: CertificateFiles): Promise<string> {
  const stamps = [files.certFile, files.keyFile].map(async (file) => {
    try {
      const { mtimeMs, size, ino } = await stat(file);
      return `${mtimeMs} ${size} ${ino}`;
    } catch {
      return 'missing';
    }
  });
  return (await Promise.all(stamps)).join(', ');
}

async function readText(flag: string, file: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(file, 'latin1');
  } catch (error) {
    throw wrong(`The file of ${flag} cannot be read: ${messageOf(error)}`, error);
  }
  if (text.length > MAX_BYTES) throw wrong(`The file of ${flag} is larger than 1 MiB.`);
  return text;
}

function certificatesIn(pem: string, file: string): X509Certificate[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g) ?? [];
  return blocks.map((block, i) => {
    try {
      return new X509Certificate(block);
    } catch (error) {
      throw wrong(`Certificate ${i + 1} in ${file} is damaged: ${messageOf(error)}`, error);
    }
  });
}

function privateKeyIn(pem: string, file: string): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch (error) {
    if (/BEGIN ENCRYPTED|ENCRYPTED\s*$/m.test(pem) || /passphrase/i.test(messageOf(error))) {
      throw wrong(
        `The key in ${file} is encrypted. Decrypt it, for example with: openssl pkey -in <file> -out <new file>`,
      );
    }
    throw wrong(`${file} holds no private key in PEM form: ${messageOf(error)}`, error);
  }
}

function wrong(text: string, cause?: unknown): DomainError {
  return new DomainError('INVALID', text, cause === undefined ? {} : { cause });
}
