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
