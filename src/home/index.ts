/** The home room's door: the state folder of one server, as the server and its clients see it. */
export {
  type AccessKey,
  ensureAccessKey,
  makeHome,
  type Provisions,
  provisionsOf,
  readAccessKey,
  readServerRecord,
  type ServerRecord,
  tlsDirOf,
  writeServerRecord,
} from './home.ts';
export { isLocked, lockHome } from './lock.ts';
export { makePrivate } from './private.ts';
