/** Where builds and microVMs log to, and bytes as lines. */
import { StringDecoder } from 'node:string_decoder';
import type { LogSink } from './types.ts';

/** The `logging` member of the service's operations. */
export type LoggingChoice =
  | { readonly disabled: Readonly<Record<string, never>> }
  | { readonly cloudWatch: { readonly logGroup?: string; readonly logStream?: string } };

export interface Source {
  readonly imageName: string;
  readonly imageVersion: string;
  /** Of the microVM or the build. */
  readonly id: string;
  readonly startedAt: number;
}

export interface Destination {
  readonly group: string;
  readonly stream: string;
}

/** Undefined: nothing is logged. Group and stream as observed of the service. GUESS: log-defaults */
export function destinationOf(logging: LoggingChoice | null, source: Source): Destination | undefined {
  if (logging !== null && 'disabled' in logging) return undefined;
  const { logGroup, logStream } = logging?.cloudWatch ?? {};
  const day = new Date(source.startedAt).toISOString().slice(0, 10).replaceAll('-', '/');
  return {
    group: logGroup ?? `/aws/lambda-microvms/${source.imageName}`,
    stream: logStream ?? `${day}[${source.imageVersion}]${source.id}`,
  };
}

/** A line that does not end is cut here. */
const MAX_LINE_CHARACTERS = 16_384;

/** Bytes as they come, as one event a line. Terminals' carriage returns at the end of lines are left out, and empty lines. */
export class LineSink {
  readonly #sink: LogSink;
  readonly #now: () => number;
  readonly #decoder = new StringDecoder('utf8');
  #rest = '';

  constructor(sink: LogSink, now: () => number) {
    this.#sink = sink;
    this.#now = now;
  }

  write(bytes: Buffer): void {
    const lines = (this.#rest + this.#decoder.write(bytes)).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) this.#line(line);
    while (this.#rest.length >= MAX_LINE_CHARACTERS) {
      this.#line(this.#rest.slice(0, MAX_LINE_CHARACTERS));
      this.#rest = this.#rest.slice(MAX_LINE_CHARACTERS);
    }
  }

  end(): void {
    this.#line(this.#rest + this.#decoder.end());
    this.#rest = '';
  }

  #line(text: string): void {
    const message = text.replace(/\r+$/, '');
    if (message !== '') this.#sink.write({ at: this.#now(), message });
  }
}
