/** The walls of the house: which room may import which, compared with the list in docs/ARCHITECTURE.md. Types count too. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { test } from 'node:test';

const root = join(import.meta.dirname, '..');
const src = join(root, 'src');

interface Edge {
  readonly file: string;
  readonly from: string;
  readonly to: string;
  readonly target: string;
}

/** The room a file of src/ belongs to; files directly in src/ are rooms of their own. */
function roomOf(path: string): string {
  const [first = ''] = relative(src, path).split('/');
  return first.replace(/\.ts$/, '');
}

function edges(): Edge[] {
  const found: Edge[] = [];
  for (const entry of readdirSync(src, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !entry.name.endsWith('.ts')) continue;
    const file = join(entry.parentPath, entry.name);
    const text = readFileSync(file, 'utf8').replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');
    for (const match of text.matchAll(/(?:from|import|import\()\s*['"](\.[^'"]+)['"]/g)) {
      const target = resolve(dirname(file), match[1] ?? '');
      if (!target.startsWith(`${src}/`)) continue;
      const [from, to] = [roomOf(file), roomOf(target)];
      if (from !== to) found.push({ file: relative(root, file), from, to, target: relative(src, target) });
    }
  }
  return found;
}

/** Reads the lines `room → a, b` of the fenced block under the heading "Edges". */
function documented(): Map<string, Set<string>> {
  const text = readFileSync(join(root, 'docs/ARCHITECTURE.md'), 'utf8');
  const block = /### Edges[\s\S]*?```text\n([\s\S]*?)```/.exec(text)?.[1];
  assert.ok(block, 'docs/ARCHITECTURE.md has a fenced list under "### Edges"');
  const rooms = new Map<string, Set<string>>();
  for (const line of block.trim().split('\n')) {
    const [from = '', to = ''] = line.split('→');
    rooms.set(
      from.trim(),
      new Set(
        to
          .split(',')
          .map((room) => room.trim())
          .filter(Boolean),
      ),
    );
  }
  return rooms;
}

test('rooms import only the rooms that docs/ARCHITECTURE.md lists for them', () => {
  const allowed = documented();
  const wrong = edges().filter((edge) => edge.to !== 'lib' && !allowed.get(edge.from)?.has(edge.to));
  // Tests and what they share (test-*.ts) may use the fakes of other rooms.
  const isTest = (edge: Edge) => /(\.test|\/test-[a-z-]+)\.ts$/.test(edge.file);
  assert.deepEqual(
    wrong
      .filter((edge) => !isTest(edge))
      .map((edge) => `${edge.file} imports ${edge.to}: take it away or list the edge`),
    [],
  );
});

test('rooms import each other only through the door, index.ts', () => {
  const behind = edges().filter((edge) => {
    const inRoom = edge.target.split('/');
    return inRoom.length > 1 && edge.target !== `${edge.to}/index.ts`;
  });
  assert.deepEqual(
    behind.map((edge) => `${edge.file} imports ${edge.target}`),
    [],
  );
});

test('every documented edge is used', () => {
  const used = new Set(edges().map((edge) => `${edge.from} → ${edge.to}`));
  const unused = [...documented()]
    .flatMap(([from, tos]) => [...tos].map((to) => `${from} → ${to}`))
    .filter((e) => !used.has(e));
  assert.deepEqual(unused, []);
});
