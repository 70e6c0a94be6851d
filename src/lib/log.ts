import { type Logger as PinoLogger, pino } from 'pino';

/** Structured logger: data goes in the first argument, the sentence in the second. `child` binds fields. */
export interface Logger {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  child(bindings: object): Logger;
}

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';

/** JSON lines on stderr, so that stdout stays for what a script reads. */
export function createLogger(level: LogLevel): Logger {
  const logger: PinoLogger = pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ fd: 2, sync: true }),
  );
  return logger;
}

export const silentLogger: Logger = createLogger('silent');
