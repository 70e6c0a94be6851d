/** The images room's door: image > version > build, from an artifact to a sealed snapshot. */
export { createImages, type ImagesOptions } from './images.ts';
export { HOLDING_STATES } from './in-use.ts';
export type { ImageQuotas } from './quotas.ts';
export type * from './types.ts';
export { HOOK_PATH } from './version-config.ts';
