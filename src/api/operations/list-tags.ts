import { behaviour } from '../operation.ts';
import { taggedIn } from './tagged-resource.ts';

export const listTags = behaviour('ListTags', {
  resource: ({ Resource }) => Resource,
  run: async ({ Resource }, rooms) => ({ Tags: await taggedIn(Resource, rooms).tags(Resource) }),
});
