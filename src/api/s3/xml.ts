/** The little XML that S3's answers need. */

/** Markup already made; only this file makes it, so text never passes unescaped. */
export class Xml {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

export function element(name: string, content: string | number | boolean | readonly Xml[]): Xml {
  const inner = typeof content === 'object' ? content.map(({ text }) => text).join('') : escapeXml(String(content));
  return new Xml(`<${name}>${inner}</${name}>`);
}

export function xmlDocument(root: string, content: readonly Xml[], namespace?: string): string {
  const attribute = namespace === undefined ? '' : ` xmlns="${namespace}"`;
  return `<?xml version="1.0" encoding="UTF-8"?>\n<${root}${attribute}>${content.map(({ text }) => text).join('')}</${root}>`;
}

export const S3_NAMESPACE = 'http://s3.amazonaws.com/doc/2006-03-01/';

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&apos;',
};

function escapeXml(text: string): string {
  // Control characters of keys go as references, as S3 sends them; clients that want to be safe ask for URL encoding.
  return [...text]
    .map((char) => ENTITIES[char] ?? (char < ' ' || char === '\x7f' ? `&#x${char.charCodeAt(0).toString(16)};` : char))
    .join('');
}

/** An element that was read: either text or children; whitespace between children is nothing. */
export interface ReadElement {
  readonly name: string;
  readonly text: string;
  readonly children: readonly ReadElement[];
}

const MAX_DEPTH = 8;
const PIECE =
  /<\?[\s\S]*?\?>|<!--[\s\S]*?-->|<(\/?)([A-Za-z_][\w.:-]*)((?:\s+[\w.:-]+\s*=\s*(?:"[^"<]*"|'[^'<]*'))*)\s*(\/?)>|[^<]+/y;
const NAMED: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };

/**
 * Reads the little XML that clients send: elements and text, no document type, so no entities of their own. Name space
 * prefixes are dropped. Undefined for anything else.
 */
export function readXml(text: string): ReadElement | undefined {
  interface Open {
    readonly name: string;
    text: string;
    readonly children: ReadElement[];
  }
  const root: Open = { name: '', text: '', children: [] };
  const open: Open[] = [root];
  PIECE.lastIndex = 0;
  for (let at = 0; at < text.length; at = PIECE.lastIndex) {
    const match = PIECE.exec(text);
    const parent = open.at(-1);
    if (match === null || parent === undefined) return undefined;
    const [piece, closing, fullName, , empty] = match;
    if (fullName === undefined) {
      if (piece.startsWith('<')) continue;
      const plain = unescapeXml(piece);
      if (plain === undefined) return undefined;
      parent.text += plain;
      continue;
    }
    const name = fullName.slice(fullName.indexOf(':') + 1);
    if (closing === '/') {
      if (open.length < 2 || parent.name !== name) return undefined;
      open.pop();
      continue;
    }
    const made: Open = { name, text: '', children: [] };
    parent.children.push(made);
    if (empty !== '/') open.push(made);
    if (open.length > MAX_DEPTH) return undefined;
  }
  const [first, ...others] = root.children;
  return open.length === 1 && others.length === 0 && root.text.trim() === '' ? first : undefined;
}

function unescapeXml(text: string): string | undefined {
  let isSound = true;
  const plain = text.replace(/&(?:#x([0-9a-fA-F]{1,6})|#(\d{1,7})|(\w+));|&/g, (_, hex, decimal, name) => {
    const code = hex === undefined ? Number(decimal) : Number.parseInt(hex, 16);
    const char = name === undefined && code <= 0x10ffff ? String.fromCodePoint(code) : NAMED[String(name)];
    if (char === undefined) isSound = false;
    return char ?? '';
  });
  return isSound ? plain : undefined;
}
