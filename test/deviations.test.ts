import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

const root = join(import.meta.dirname, '..');

function sourceFiles(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.(ts|go)$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name));
}

test('every guess tagged in the source stands in DEVIATIONS.md, and every guess listed there is tagged', () => {
  const tagged = new Set<string>();
  for (const file of ['src', 'spec', 'agent'].flatMap(sourceFiles)) {
    for (const match of readFileSync(file, 'utf8').matchAll(/GUESS: ([a-z0-9-]+)/g)) tagged.add(match[1] ?? '');
  }
  const text = readFileSync(join(root, 'docs/DEVIATIONS.md'), 'utf8');
  const table = text.slice(text.indexOf('## Guesses'), text.indexOf('## Deliberate differences'));
  const listed = new Set([...table.matchAll(/^\| `?([a-z0-9]+(?:-[a-z0-9]+)+)`? \|/gm)].map((match) => match[1] ?? ''));
  assert.deepEqual([...tagged].sort(), [...listed].sort());
});
