/** Medians and a plain table, so that every bench prints alike. */

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? upper)) / 2;
}

export interface Row {
  readonly what: string;
  readonly value: string;
  /** The promise it is held against, empty for a figure without one. */
  readonly promise?: string;
  readonly kept?: boolean;
}

export function printTable(title: string, rows: readonly Row[]): void {
  const width = Math.max(...rows.map((row) => row.what.length));
  const values = Math.max(...rows.map((row) => row.value.length));
  console.log(`\n${title}`);
  for (const row of rows) {
    const verdict =
      row.promise === undefined
        ? ''
        : `  ${row.promise}${row.kept === undefined ? '' : row.kept ? '  kept' : '  MISSED'}`;
    console.log(`  ${row.what.padEnd(width)}  ${row.value.padStart(values)}${verdict}`);
  }
}

/** `median (min–max) unit` */
export function spread(values: readonly number[], unit = 'ms', digits = 0): string {
  const at = (n: number) => n.toFixed(digits);
  return `${at(median(values))} ${unit} (${at(Math.min(...values))}–${at(Math.max(...values))})`;
}
