/**
 * Takes an x86 bzImage apart, after the kernel's boot protocol (Documentation/arch/x86/boot.rst): the header says where
 * the compressed kernel lies; the uncompressed kernel is an ELF file whose Xen note 18 marks the PVH entry.
 */

const HEADER_MAGIC = 'HdrS';
const NOTE_SEGMENT = 4;
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

export interface Payload {
  readonly compression: 'zstd' | 'xz' | 'other';
  readonly bytes: Buffer;
}

/** The compressed kernel inside a bzImage; `undefined` when this is none. */
export function findPayload(image: Buffer): Payload | undefined {
  if (image.length < 0x250 || image.toString('latin1', 0x202, 0x206) !== HEADER_MAGIC) return undefined;
  const setupSectors = image.readUInt8(0x1f1) || 4;
  const start = (setupSectors + 1) * 512 + image.readUInt32LE(0x248);
  // The last four bytes are the size of the uncompressed kernel, appended by the build.
  const end = start + image.readUInt32LE(0x24c) - 4;
  if (end > image.length) return undefined;
  const bytes = image.subarray(start, end);
  const magic = bytes.readUInt32BE(0);
  const compression = magic === 0x28b52ffd ? 'zstd' : magic === 0xfd377a58 ? 'xz' : 'other';
  return { compression, bytes };
}

/** Whether QEMU can start this ELF kernel without a boot loader. */
export function hasPvhEntry(elf: Buffer): boolean {
  if (elf.length < 64 || elf.readUInt32BE(0) !== 0x7f454c46 || elf.readUInt8(4) !== 2) return false;
  const table = Number(elf.readBigUInt64LE(0x20));
  const entrySize = elf.readUInt16LE(0x36);
  const count = elf.readUInt16LE(0x38);
  for (let index = 0; index < count; index++) {
    const header = table + index * entrySize;
    if (elf.readUInt32LE(header) !== NOTE_SEGMENT) continue;
    const offset = Number(elf.readBigUInt64LE(header + 8));
    const size = Number(elf.readBigUInt64LE(header + 32));
    if (notesHavePvh(elf.subarray(offset, offset + size))) return true;
  }
  return false;
}

function notesHavePvh(notes: Buffer): boolean {
  let at = 0;
  while (at + 12 <= notes.length) {
    const nameSize = notes.readUInt32LE(at);
    const valueSize = notes.readUInt32LE(at + 4);
    const type = notes.readUInt32LE(at + 8);
    const name = notes.toString('latin1', at + 12, at + 12 + nameSize);
    if (type === XEN_ELFNOTE_PHYS32_ENTRY && name === 'Xen\0') return true;
    at += 12 + align4(nameSize) + align4(valueSize);
  }
  return false;
}

function align4(size: number): number {
  return (size + 3) & ~3;
}
