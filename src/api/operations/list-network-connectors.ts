import { behaviour } from '../operation.ts';

export const listNetworkConnectors = behaviour('ListNetworkConnectors', {
  run: async ({ State, Marker, MaxItems }, { connectors }) => {
    const { items, nextToken } = await connectors.list({
      ...(State !== undefined && { state: State }),
      ...(MaxItems !== undefined && { maxResults: MaxItems }),
      ...(Marker !== undefined && { nextToken: Marker }),
    });
    return { NetworkConnectors: items, NextMarker: nextToken };
  },
});
