/** CRC-32C and CRC-64/NVME, which Node lacks: one table each, bytes fed in pieces. */

/** A checksum under way. */
export interface RunningSum {
  update(chunk: Buffer): void;
  digest(): Buffer;
}

const CRC32C_POLYNOMIAL = 0x82f63b78;
/** 0x9a6c9329ac4bc9b5, reflected, in two halves: JavaScript's integer operations have 32 bits. */
const CRC64_HIGH = 0x9a6c9329;
const CRC64_LOW = 0xac4bc9b5;

const crc32cTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = (value & 1) === 1 ? (value >>> 1) ^ CRC32C_POLYNOMIAL : value >>> 1;
  return value >>> 0;
});

const crc64High = new Uint32Array(256);
const crc64Low = new Uint32Array(256);
for (let byte = 0; byte < 256; byte++) {
  let [high, low] = [0, byte];
  for (let bit = 0; bit < 8; bit++) {
    const isOdd = (low & 1) === 1;
    low = ((low >>> 1) | ((high & 1) << 31)) >>> 0;
    high >>>= 1;
    if (isOdd) {
      high = (high ^ CRC64_HIGH) >>> 0;
      low = (low ^ CRC64_LOW) >>> 0;
    }
  }
  crc64High[byte] = high;
  crc64Low[byte] = low;
}

export function crc32c(): RunningSum {
  let sum = 0xffffffff;
  return {
    update(chunk) {
      for (let i = 0; i < chunk.length; i++) sum = (crc32cTable[(sum ^ (chunk[i] ?? 0)) & 0xff] ?? 0) ^ (sum >>> 8);
    },
    digest: () => bigEndian((sum ^ 0xffffffff) >>> 0),
  };
}

export function crc64nvme(): RunningSum {
  let high = 0xffffffff;
  let low = 0xffffffff;
  return {
    update(chunk) {
      for (let i = 0; i < chunk.length; i++) {
        const at = (low ^ (chunk[i] ?? 0)) & 0xff;
        low = ((low >>> 8) | (high << 24)) ^ (crc64Low[at] ?? 0);
        high = (high >>> 8) ^ (crc64High[at] ?? 0);
      }
    },
    digest: () => bigEndian((high ^ 0xffffffff) >>> 0, (low ^ 0xffffffff) >>> 0),
  };
}

function bigEndian(...words: number[]): Buffer {
  const bytes = Buffer.alloc(words.length * 4);
  for (const [index, word] of words.entries()) bytes.writeUInt32BE(word, index * 4);
  return bytes;
}
