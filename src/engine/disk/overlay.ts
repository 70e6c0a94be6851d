/**
 * Writes an empty qcow2 overlay: 1 ms instead of the 8 ms that starting qemu-img costs.
 *
 * Version 3, clusters of 64 KiB: header, refcount table, one refcount block, L1 table, one cluster each (an L1 table
 * of one cluster reaches 4 TiB). The backing file is named by the VMM's command line, never by the header. An encrypted one
 * has a LUKS header behind that, which keeps its key.
 */
import { open } from 'node:fs/promises';
import { LUKS_HEADER_BYTES } from './luks.ts';

const CLUSTER_BITS = 16;
const CLUSTER_BYTES = 1 << CLUSTER_BITS;
/** Bytes that one L1 entry reaches. */
const L1_REACH_BYTES = CLUSTER_BYTES * (CLUSTER_BYTES / 8);
const HEADER_BYTES = 112;
/** Header, refcount table, refcount block, L1 table. */
const FIRST_CLUSTERS = 4;

/** Pointer to the LUKS header, and the end of extensions. */
const EXTENSION_ENCRYPTION = 0x0537be77;
const ENCRYPTION_LUKS = 2;

/** @param luks header of the overlay's encryption, when it has one */
export async function createOverlay(path: string, sizeBytes: number, luks?: Buffer): Promise<void> {
  const header = Buffer.alloc(luks === undefined ? HEADER_BYTES : HEADER_BYTES + 24);
  header.writeUInt32BE(0x514649fb, 0);
  header.writeUInt32BE(3, 4);
  header.writeUInt32BE(CLUSTER_BITS, 20);
  header.writeBigUInt64BE(BigInt(sizeBytes), 24);
  header.writeUInt32BE(luks === undefined ? 0 : ENCRYPTION_LUKS, 32);
  header.writeUInt32BE(Math.ceil(sizeBytes / L1_REACH_BYTES), 36);
  header.writeBigUInt64BE(BigInt(3 * CLUSTER_BYTES), 40);
  header.writeBigUInt64BE(BigInt(CLUSTER_BYTES), 48);
  header.writeUInt32BE(1, 56);
  header.writeUInt32BE(4, 96); // refcounts of 2^4 bits
  header.writeUInt32BE(104, 100); // length of the header proper; extensions follow
  if (luks !== undefined) {
    header.writeUInt32BE(EXTENSION_ENCRYPTION, 104);
    header.writeUInt32BE(16, 108);
    header.writeBigUInt64BE(BigInt(FIRST_CLUSTERS * CLUSTER_BYTES), 112);
    header.writeBigUInt64BE(BigInt(LUKS_HEADER_BYTES), 120);
  }
  const refcountTable = Buffer.alloc(8);
  refcountTable.writeBigUInt64BE(BigInt(2 * CLUSTER_BYTES));
  const clusters = FIRST_CLUSTERS + (luks === undefined ? 0 : Math.ceil(LUKS_HEADER_BYTES / CLUSTER_BYTES));
  const refcounts = Buffer.alloc(2 * clusters);
  for (let cluster = 0; cluster < clusters; cluster++) refcounts.writeUInt16BE(1, 2 * cluster);
  await using file = await open(path, 'wx', 0o600);
  await file.truncate(clusters * CLUSTER_BYTES);
  await file.write(header, 0, header.length, 0);
  await file.write(refcountTable, 0, refcountTable.length, CLUSTER_BYTES);
  await file.write(refcounts, 0, refcounts.length, 2 * CLUSTER_BYTES);
  if (luks !== undefined) await file.write(luks, 0, luks.length, FIRST_CLUSTERS * CLUSTER_BYTES);
}
