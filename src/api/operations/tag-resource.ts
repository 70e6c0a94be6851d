import { behaviour } from '../operation.ts';
import { taggedIn } from './tagged-resource.ts';

/** Adds to the tags there are. */
export const tagResource = behaviour('TagResource', {
  resource: ({ Resource }) => Resource,
  run: async ({ Resource, Tags }, rooms) => {
    await taggedIn(Resource, rooms).tag(Resource, Tags);
    return {};
  },
});
