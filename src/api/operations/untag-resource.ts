import { behaviour } from '../operation.ts';
import { taggedIn } from './tagged-resource.ts';

export const untagResource = behaviour('UntagResource', {
  resource: ({ Resource }) => Resource,
  run: async ({ Resource, TagKeys }, rooms) => {
    await taggedIn(Resource, rooms).untag(Resource, TagKeys);
    return {};
  },
});
