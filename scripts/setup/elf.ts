/** Reads which shared libraries and which loader an ELF program needs, so that nothing else is copied into a guest. */

const DYNAMIC_SEGMENT = 2;
const INTERPRETER_SEGMENT = 3;
const LOAD_SEGMENT = 1;
const TAG_NEEDED = 1n;
const TAG_STRING_TABLE = 5n;

export interface ElfNeeds {
  readonly libraries: readonly string[];
  /** Path of the dynamic loader; `undefined` in libraries and static programs. */
  readonly interpreter: string | undefined;
}

/** @throws Error when this is no 64-bit little-endian ELF file. */
export function elfNeeds(file: Buffer): ElfNeeds {
  if (file.length < 64 || file.readUInt32BE(0) !== 0x7f454c46 || file.readUInt8(4) !== 2 || file.readUInt8(5) !== 1) {
    throw new Error('not a 64-bit little-endian ELF file');
  }
  const segments = readSegments(file);
  const interpreter = segments.find((segment) => segment.type === INTERPRETER_SEGMENT);
  const dynamic = segments.find((segment) => segment.type === DYNAMIC_SEGMENT);
  return {
    libraries: dynamic === undefined ? [] : neededLibraries(file, segments, dynamic),
    interpreter: interpreter === undefined ? undefined : stringAt(file, interpreter.offset),
  };
}

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly address: number;
  readonly size: number;
}

function readSegments(file: Buffer): Segment[] {
  const table = Number(file.readBigUInt64LE(0x20));
  const entrySize = file.readUInt16LE(0x36);
  return Array.from({ length: file.readUInt16LE(0x38) }, (_, index) => {
    const at = table + index * entrySize;
    return {
      type: file.readUInt32LE(at),
      offset: Number(file.readBigUInt64LE(at + 8)),
      address: Number(file.readBigUInt64LE(at + 16)),
      size: Number(file.readBigUInt64LE(at + 32)),
    };
  });
}

function neededLibraries(file: Buffer, segments: readonly Segment[], dynamic: Segment): string[] {
  const names: number[] = [];
  let strings = 0;
  for (let at = dynamic.offset; at < dynamic.offset + dynamic.size; at += 16) {
    const tag = file.readBigInt64LE(at);
    const value = Number(file.readBigUInt64LE(at + 8));
    if (tag === TAG_NEEDED) names.push(value);
    if (tag === TAG_STRING_TABLE) strings = value;
  }
  const load = segments.find(
    (segment) =>
      segment.type === LOAD_SEGMENT && strings >= segment.address && strings < segment.address + segment.size,
  );
  if (load === undefined) return [];
  const table = strings - load.address + load.offset;
  return names.map((name) => stringAt(file, table + name));
}

function stringAt(file: Buffer, offset: number): string {
  return file.toString('latin1', offset, file.indexOf(0, offset));
}
