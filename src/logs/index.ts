/** The logs room's door. */
export { destinationOf, LineSink, type LoggingChoice } from './destination.ts';
export { createLogs, type LogsOptions } from './logs.ts';
export type {
  FilterPage,
  FilterQuery,
  GroupQuery,
  GroupView,
  LogEvent,
  LogSink,
  Logs,
  NewEvent,
  Position,
  ReadQuery,
  ResumableSink,
  StreamQuery,
  StreamView,
  TailEvent,
  TailOptions,
} from './types.ts';
