/** What AWS has no operation for. */
export { answerExtension, EXTENSION_PREFIX, type ExtensionRooms } from './extensions.ts';
