/** Lives that once went wrong, as short as they could be made, and what was wrong then. */
import type { Sequence } from './steps.ts';

export const FOUND: readonly (Sequence & { readonly what: string })[] = [
  {
    what: 'a server could not start on a full disk',
    seed: 105,
    adopts: false,
    hooks: false,
    steps: [
      { do: 'run', idle: 'manual', seconds: 28_800 },
      { do: 'check' },
      { do: 'disk', full: true },
      { do: 'stop' },
      { do: 'go-on', rounds: 20 },
    ],
  },
  {
    what: 'a suspend whose app ended span for ever while the exit could not be written down',
    seed: 5382,
    adopts: true,
    hooks: true,
    steps: [
      { do: 'run', idle: 'auto', seconds: 28_800 },
      { do: 'check' },
      { do: 'hold', operation: 'connect', deaf: false },
      { do: 'suspend', vm: 0 },
      { do: 'go-on', rounds: 20 },
      { do: 'disk', full: true },
      { do: 'exit', vm: 0, code: 0 },
      { do: 'go-on', rounds: 20 },
      { do: 'check' },
    ],
  },
  {
    what: 'a step of the wall clock was counted as time when the host was started anew',
    seed: 214,
    adopts: true,
    hooks: false,
    steps: [
      { do: 'run', idle: 'none', seconds: 28_800 },
      { do: 'check' },
      { do: 'suspend', vm: 0 },
      { do: 'check' },
      { do: 'jump', ms: 172_800_000 },
      { do: 'advance', ms: 60_000 },
      { do: 'reboot', ms: 1000 },
      { do: 'check' },
    ],
  },
  {
    what: 'a launch was begun beside one that had been given up and hung, because the failure could not be written down',
    seed: 25_311,
    adopts: false,
    hooks: false,
    steps: [
      { do: 'run', idle: 'auto', seconds: 300 },
      { do: 'traffic', vm: 0 },
      { do: 'hold', operation: 'launch', deaf: true },
      { do: 'exchange', vm: 0, begin: true },
      { do: 'disk', full: true },
      { do: 'advance', ms: 119_999 },
      { do: 'check' },
    ],
  },
];
