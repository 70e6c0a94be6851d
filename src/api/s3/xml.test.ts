import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readXml } from './xml.ts';

test('elements, text, references, comments and name spaces are read', () => {
  const text = `<?xml version="1.0"?>\n<!-- c --><s3:Delete xmlns:s3='urn:x'><Object><Key>a&amp;&#x3c;&#228;</Key></Object><Quiet/></s3:Delete>\n`;
  const leaf = (name: string, inner = '') => ({ name, text: inner, children: [] });
  assert.deepEqual(readXml(text), {
    name: 'Delete',
    text: '',
    children: [{ name: 'Object', text: '', children: [leaf('Key', 'a&<ä')] }, leaf('Quiet')],
  });
});

for (const text of [
  '',
  'text',
  '<a>',
  '</a>',
  '<a></b>',
  '<a/><b/>',
  '<a>&unknown;</a>',
  '<a>&#x110000;</a>',
  '<a b=c/>',
  '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
  `${'<a>'.repeat(20)}${'</a>'.repeat(20)}`,
]) {
  test(`${JSON.stringify(text.slice(0, 50))} is not read`, () => {
    assert.equal(readXml(text), undefined);
  });
}
