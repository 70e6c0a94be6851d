export { type Clock, systemClock, TestClock } from './clock.ts';
export { sleep, withDeadline } from './deadline.ts';
export { type DirectRead, directRead, type Taker } from './direct-read.ts';
export {
  DomainError,
  type DomainErrorCode,
  isDiskFull,
  MachineError,
  type MachineErrorKind,
  messageOf,
} from './errors.ts';
export { type Ids, randomIds } from './ids.ts';
export { KeyedLock } from './keyed-lock.ts';
export { createLogger, type Logger, type LogLevel, silentLogger } from './log.ts';
export { Pace, type PaceOptions } from './pace.ts';
export { Slots } from './slots.ts';
export {
  CLOSE,
  carryBytes,
  closeSocket,
  MAX_MESSAGE_BYTES,
  sendPaced,
  TUNNEL_PROTOCOL,
} from './socket-bytes.ts';
export {
  ARCHIVE_CHUNK_BYTES,
  type ArchiveChunk,
  type ArchiveHead,
  type ArchiveReader,
  readArchive,
  type SourcePart,
  writeArchive,
} from './sparse-archive.ts';
export { requestOverStream, type StreamRequest } from './stream-http.ts';
export { addTags, removeTags, type Tags } from './tags.ts';
