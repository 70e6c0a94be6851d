/** What every step of set-up is given. */
import type { Steps } from './steps.ts';

export interface SetupContext {
  /** The clone. */
  readonly repoDir: string;
  /** `<cache>`: everything set-up makes is below it. */
  readonly cacheDir: string;
  /** Emptied at the start and at the end of every set-up. */
  readonly workDir: string;
  readonly env: NodeJS.ProcessEnv;
  readonly signal: AbortSignal;
  readonly steps: Steps;
  /** Prints one progress line. */
  readonly say: (line: string) => void;
}

/** Time stamp of every file set-up makes: products depend on their contents, not on the day. */
export const SOURCE_DATE_EPOCH = '1754697600';
