/** What AWS has no operation for. */
export { answerExtension, EXTENSION_PREFIX, type ExtensionRooms, isStreamed } from './extensions.ts';
