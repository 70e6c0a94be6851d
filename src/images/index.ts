/** The images room's door: image > version > build, from an artifact to a sealed snapshot. */
export type * from './types.ts';
