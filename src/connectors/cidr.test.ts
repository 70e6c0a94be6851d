import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Cidr, formatCidr, intersect, leadsNowhere, parseCidr, publicPartsOf, subtract } from './cidr.ts';

const cidr = (text: string): Cidr => {
  const parsed = parseCidr(text);
  assert.ok(parsed !== undefined, text);
  return parsed;
};
const texts = (ranges: readonly Cidr[]) => ranges.map(formatCidr);

test('ranges are read in plain decimal, aligned, and written back the same', () => {
  for (const text of ['0.0.0.0/0', '10.0.0.0/8', '255.255.255.255/32', '203.0.113.128/25']) {
    assert.equal(formatCidr(cidr(text)), text);
  }
  for (const text of [
    '10.0.0.1/8',
    '10.0.0.0',
    '10.0.0.0/33',
    '256.0.0.0/8',
    '010.0.0.0/8',
    '10.0.0.0/08',
    '::/0',
    '',
  ]) {
    assert.equal(parseCidr(text), undefined, text);
  }
});

test('two ranges have the narrower in common, or nothing', () => {
  const common = (a: string, b: string) => {
    const found = intersect(cidr(a), cidr(b));
    return found && formatCidr(found);
  };
  assert.equal(common('10.0.0.0/8', '10.20.0.0/16'), '10.20.0.0/16');
  assert.equal(common('10.20.0.0/16', '0.0.0.0/0'), '10.20.0.0/16');
  assert.equal(common('10.0.0.0/9', '10.128.0.0/9'), undefined);
});

test('what is left of a range without another is exactly the rest', () => {
  assert.deepEqual(texts(subtract(cidr('10.0.0.0/8'), cidr('10.0.0.0/10'))), ['10.64.0.0/10', '10.128.0.0/9']);
  assert.deepEqual(subtract(cidr('10.0.0.0/8'), cidr('0.0.0.0/0')), []);
  assert.deepEqual(texts(subtract(cidr('10.0.0.0/8'), cidr('11.0.0.0/8'))), ['10.0.0.0/8']);
});

test('public parts leave out hosts, links, private and special ranges', () => {
  assert.deepEqual(publicPartsOf(cidr('10.0.0.0/8')), []);
  assert.deepEqual(texts(publicPartsOf(cidr('8.8.8.0/24'))), ['8.8.8.0/24']);
  const all = publicPartsOf(cidr('0.0.0.0/0'));
  const holds = (address: string) => all.some((part) => intersect(part, cidr(`${address}/32`)) !== undefined);
  for (const address of ['1.1.1.1', '8.8.8.8', '100.63.255.255', '172.32.0.0', '223.255.255.255']) {
    assert.ok(holds(address), address);
  }
  for (const address of ['127.0.0.1', '169.254.169.254', '192.168.1.1', '100.64.0.1', '224.0.0.1', '255.255.255.255']) {
    assert.ok(!holds(address), address);
  }
});

test('ranges that reach this host, the link, groups or a metadata service alone lead nowhere', () => {
  for (const text of [
    '127.0.0.0/8',
    '0.0.0.0/0',
    '169.254.169.254/32',
    '168.63.129.16/32',
    '192.0.0.0/24',
    '128.0.0.0/1',
  ]) {
    assert.ok(leadsNowhere(cidr(text)), text);
  }
  for (const text of ['10.0.0.0/8', '100.100.100.0/24', '192.168.0.0/16']) assert.ok(!leadsNowhere(cidr(text)), text);
});
