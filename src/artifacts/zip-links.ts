/**
 * Where the links of an archive lead: each must stay inside its root, followed the way the kernel would, through the archive's
 * other links too.
 *
 * Invariant: what checking costs is bounded for all links together; it is done in one go.
 */
import { type ArtifactError, invalid } from './errors.ts';

/** Sum of the targets' lengths, which are held in memory. */
export const MAX_LINKS_BYTES = 4 * 1024 ** 2;
/** What the kernel follows and takes. */
const MAX_FOLLOWED = 40;
const MAX_PATH_CHARACTERS = 4096;
/** Names that are looked at, of all links; ten thousand links of ordinary length have a tenth of it. */
const MAX_STEPS = 1_000_000;

/** @param targets link path to target, of all links. @throws ArtifactError `archive-invalid` */
export function checkLinks(targets: ReadonlyMap<string, string>): void {
  const budget = { steps: MAX_STEPS };
  for (const path of targets.keys()) checkLink(path, targets, budget);
}

function checkLink(path: string, targets: ReadonlyMap<string, string>, budget: { steps: number }): void {
  const outside = (): ArtifactError => invalid(`the link '${path}' leads outside of it`);
  let at = parentOf(path);
  /** What is still to be gone, the next name last. */
  const pending = namesOf(targets.get(path) ?? '', outside);
  let followed = 0;
  for (let step = pending.pop(); step !== undefined; step = pending.pop()) {
    budget.steps -= 1;
    if (budget.steps < 0) throw invalid('its links are too many and too long');
    if (step === '' || step === '.') continue;
    if (step === '..') {
      if (at === '') throw outside();
      at = parentOf(at);
      continue;
    }
    const next = at === '' ? step : `${at}/${step}`;
    if (next.length > MAX_PATH_CHARACTERS) throw invalid(`the link '${path}' leads too deep`);
    const target = targets.get(next);
    if (target === undefined) {
      at = next;
      continue;
    }
    followed += 1;
    if (followed > MAX_FOLLOWED) throw invalid(`the link '${path}' leads through too many links`);
    pending.push(...namesOf(target, outside));
  }
}

function namesOf(target: string, outside: () => ArtifactError): string[] {
  if (target.startsWith('/')) throw outside();
  return target.split('/').reverse();
}

function parentOf(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf('/')));
}
