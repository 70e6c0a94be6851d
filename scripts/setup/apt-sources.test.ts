import { deepEqual, equal } from 'node:assert/strict';
import { describe, test } from 'node:test';
import { debianLines, findDebianMirror, parseDeb822, parseOneLine } from './apt-sources.ts';

const DEB822 = `# comment
Types: deb
# inside a stanza too
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
`;

describe('apt sources', () => {
  test('a deb822 file gives the archive, the security archive and the keyring', () => {
    deepEqual(findDebianMirror(parseDeb822(DEB822)), {
      archive: 'http://mirror.example/debian',
      security: 'http://mirror.example/debian-security',
      keyring: '/usr/share/keyrings/debian-archive-keyring.gpg',
    });
  });

  test('a one-line file gives the same', () => {
    const text = `
# deb http://old.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] https://mirror.example/debian bookworm main contrib # here
deb-src https://mirror.example/debian bookworm main
deb https://mirror.example/security bookworm-security main
deb https://mirror.example/debian bookworm-updates main
`;
    deepEqual(findDebianMirror(parseOneLine(text)), {
      archive: 'https://mirror.example/debian',
      security: 'https://mirror.example/security',
      keyring: '/k.gpg',
    });
  });

  test('the old form of the security suite is known', () => {
    const text = 'deb http://m.example/debian buster main\ndeb http://m.example/debian-security buster/updates main\n';
    equal(findDebianMirror(parseOneLine(text))?.security, 'http://m.example/debian-security');
  });

  test('disabled stanzas and sources only of source code are no mirror', () => {
    equal(findDebianMirror(parseDeb822(DEB822.replaceAll('Types: deb\n', 'Types: deb-src\n'))), undefined);
    equal(findDebianMirror(parseDeb822(DEB822.replaceAll('Types:', 'Enabled: no\nTypes:'))), undefined);
  });

  test('archives of others than Debian are passed over', () => {
    const others =
      'deb https://packages.example/apt cloud-sdk-bookworm main\ndeb https://node.example/ nodistro main\n';
    equal(findDebianMirror(parseOneLine(others)), undefined);
    const both = findDebianMirror(parseOneLine(`${others}deb http://m.example/debian trixie main\n`));
    equal(both?.archive, 'http://m.example/debian');
    equal(both?.security, undefined);
  });

  test('fields over several lines and key blocks in Signed-By are read', () => {
    const text = `Types: deb
URIs: http://m.example/debian
Suites: trixie
 trixie-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
`;
    const [source] = parseDeb822(text);
    deepEqual(source?.suites, ['trixie', 'trixie-updates']);
    equal(source?.signedBy, undefined);
  });

  test('every line for a guest release names the keyring that verifies it', () => {
    const mirror = { archive: 'http://m.example/debian', security: 'http://m.example/security', keyring: undefined };
    deepEqual(debianLines(mirror, 'trixie', '/k.gpg', { backports: true }), [
      'deb [signed-by=/k.gpg] http://m.example/debian trixie main',
      'deb [signed-by=/k.gpg] http://m.example/debian trixie-updates main',
      'deb [signed-by=/k.gpg] http://m.example/security trixie-security main',
      'deb [signed-by=/k.gpg] http://m.example/debian trixie-backports main',
    ]);
  });
});
