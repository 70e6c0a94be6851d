/** Rounds in which something was found, and what that was. What depends on timing may not come again, but the pressure does. */
import { FAULTS } from './faults.ts';
import type { Round } from './round.ts';

const STARTS = ['kill-server', 'kill-server-at-start', 'stop-server'] as const;
const DEATHS = ['kill-server', 'stop-server', 'kill-vm'] as const;

export const FOUND: readonly (Omit<Round, 'wakesAll'> & { readonly what: string })[] = [
  { what: 'a stop took a resume under way for a microVM at rest, and ended it', seed: 7, round: 6, choices: FAULTS },
  { what: 'a server that was stopped ended by a failure nobody heard', seed: 8, round: 6, choices: STARTS },
  { what: 'a guest detached while the gateway was dead left its folder', seed: 11, round: 1, choices: FAULTS },
  { what: 'a VMM killed while it was loaded ended the server', seed: 12, round: 3, choices: FAULTS },
  { what: 'a VMM killed while it was loaded ended the server', seed: 13, round: 11, choices: DEATHS },
  { what: 'a guest that ended during a restart of the gateway left its folder', seed: 30, round: 30, choices: FAULTS },
  { what: 'a certificate of a clock ahead was refused for a day', seed: 31, round: 2, choices: FAULTS },
  { what: 'a gateway not on record kept every other from starting', seed: 33, round: 117, choices: FAULTS },
  { what: 'a suspend that a killed server did not finish left its folders', seed: 35, round: 49, choices: FAULTS },
  { what: 'a guest suspended while no gateway ran left its folder', seed: 39, round: 18, choices: FAULTS },
  { what: 'a resume that a full disk refused had voided what it resumed from', seed: 41, round: 250, choices: FAULTS },
  {
    what: 'a gateway that stood still failed launches that would have waited for the next',
    seed: 42,
    round: 199,
    choices: FAULTS,
  },
];
