/** What commands print with: results on stdout (for people or, with --json, for programs), progress on stderr. */

export interface Terminal {
  /** Result in words. Silent with `--json`. */
  say(line: string): void;
  /** Result for programs: one JSON document. Silent without `--json`. */
  json(value: unknown): void;
  /** Progress and remarks: never part of the result. */
  note(line: string): void;
  /** Raw result bytes: bodies, logs. Resolves when the reader took them. */
  raw(chunk: Buffer | string): Promise<void>;
  readonly isJson: boolean;
}

export function createTerminal(options: {
  json: boolean;
  stdout?: NodeJS.WritableStream;
  stderr?: NodeJS.WritableStream;
}): Terminal {
  const { stdout = process.stdout, stderr = process.stderr } = options;
  return {
    isJson: options.json,
    say: (line) => {
      if (!options.json) stdout.write(`${line}\n`);
    },
    json: (value) => {
      if (options.json) stdout.write(`${JSON.stringify(value, null, 2)}\n`);
    },
    note: (line) => {
      stderr.write(`${line}\n`);
    },
    raw: (chunk) =>
      new Promise((resolve, reject) => void stdout.write(chunk, (error) => (error ? reject(error) : resolve()))),
  };
}

/** Columns padded to their widest cell; the last is left ragged. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)));
  const line = (row: readonly string[]) =>
    row
      .map((cell, column) => (column === header.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)))
      .join('  ')
      .trimEnd();
  return all.map(line).join('\n');
}

/** A word that a POSIX shell reads back as it is. */
export function shellQuoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** `1.2 s`, `45 ms`, `2 min 3 s`. */
export function duration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}
