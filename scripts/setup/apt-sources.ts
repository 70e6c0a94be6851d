/**
 * Reads the host's apt sources (one-line and deb822) to learn which Debian mirror this machine uses. The project names
 * no mirror of its own: every package comes from the place the machine's owner chose.
 */

export interface AptSource {
  readonly types: readonly string[];
  readonly uris: readonly string[];
  readonly suites: readonly string[];
  readonly components: readonly string[];
  /** Keyring file, when the entry names one. */
  readonly signedBy: string | undefined;
}

export interface DebianMirror {
  readonly archive: string;
  /** `undefined` when the machine has no security suite; its updates are then simply missing. */
  readonly security: string | undefined;
  readonly keyring: string | undefined;
}

const RELEASES = ['buster', 'bullseye', 'bookworm', 'trixie', 'forky', 'duke', 'sid'];
const ALIASES = ['oldoldstable', 'oldstable', 'stable', 'testing', 'unstable'];

/** Parses a `*.list` file. */
export function parseOneLine(text: string): AptSource[] {
  const sources: AptSource[] = [];
  for (const raw of text.split('\n')) {
    const line = raw.replace(/#.*$/, '').trim();
    const match = /^(deb|deb-src)\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*(.*)$/.exec(line);
    if (match === null) continue;
    const [, type = '', options = '', uri = '', suite = '', components = ''] = match;
    const signedBy = /(?:^|\s)signed-by=(\S+)/i.exec(options)?.[1];
    sources.push({ types: [type], uris: [uri], suites: [suite], components: words(components), signedBy });
  }
  return sources;
}

/** Parses a `*.sources` file (deb822). Disabled stanzas are left out. */
export function parseDeb822(text: string): AptSource[] {
  const sources: AptSource[] = [];
  for (const stanza of text.split(/\n[ \t]*\n/)) {
    const fields = new Map<string, string>();
    let current: string | undefined;
    for (const line of stanza.split('\n')) {
      if (line.startsWith('#')) continue;
      const field = /^([A-Za-z0-9-]+):(.*)$/.exec(line);
      if (field !== null) {
        current = (field[1] ?? '').toLowerCase();
        fields.set(current, (field[2] ?? '').trim());
      } else if (current !== undefined && /^[ \t]/.test(line)) {
        fields.set(current, `${fields.get(current) ?? ''} ${line.trim()}`);
      }
    }
    if (!fields.has('uris') || /^(no|false|0)$/i.test(fields.get('enabled') ?? 'yes')) continue;
    // Signed-By may also hold a whole key block; only a path is of use here.
    const signedBy = words(fields.get('signed-by') ?? '')[0];
    sources.push({
      types: words(fields.get('types') ?? 'deb'),
      uris: words(fields.get('uris') ?? ''),
      suites: words(fields.get('suites') ?? ''),
      components: words(fields.get('components') ?? ''),
      signedBy: signedBy?.startsWith('/') ? signedBy : undefined,
    });
  }
  return sources;
}

/** Picks Debian's archive and security archive out of the sources; `undefined` when there is no Debian archive. */
export function findDebianMirror(sources: readonly AptSource[]): DebianMirror | undefined {
  const binary = sources.filter((source) => source.types.includes('deb') && source.components.includes('main'));
  const isRelease = (suite: string) => RELEASES.includes(suite) || ALIASES.includes(suite);
  const archive = binary.find((source) => source.suites.some(isRelease));
  const security = binary.find((source) =>
    source.suites.some((suite) => /[-/](security|updates)$/.test(suite) && !/-updates$/.test(suite)),
  );
  const uri = archive?.uris[0];
  if (archive === undefined || uri === undefined) return undefined;
  return {
    archive: uri.replace(/\/+$/, ''),
    security: security?.uris[0]?.replace(/\/+$/, ''),
    keyring: archive.signedBy ?? security?.signedBy,
  };
}

/** The source lines of a Debian release on that mirror: release, updates, security, and backports when asked for. */
export function debianLines(
  mirror: DebianMirror,
  codename: string,
  keyring: string,
  options: { backports?: boolean } = {},
): string[] {
  const line = (uri: string, suite: string) => `deb [signed-by=${keyring}] ${uri} ${suite} main`;
  const lines = [line(mirror.archive, codename), line(mirror.archive, `${codename}-updates`)];
  if (mirror.security !== undefined) lines.push(line(mirror.security, `${codename}-security`));
  if (options.backports) lines.push(line(mirror.archive, `${codename}-backports`));
  return lines;
}

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== '');
}
