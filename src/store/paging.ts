/** One page of a list from a keyset query and back: the same rules for every list of the service. */
import type { Page, PageKey, PageTokens } from './page-token.ts';
import type { Row } from './store.ts';

/** Model: 1 to 50; the default is undocumented. GUESS: default-page-size */
const DEFAULT_PAGE_SIZE = 50;

/**
 * Cuts one page. `scope` names the list with its filters; a token of another list is refused.
 * @throws DomainError `INVALID` for a token that is not ours
 */
export async function readPage<Body, Item>(
  tokens: PageTokens,
  request: { readonly maxResults?: number; readonly nextToken?: string },
  scope: string,
  list: (query: { after?: PageKey; limit: number }) => Promise<readonly Row<Body>[]>,
  itemOf: (body: Body) => Item,
): Promise<Page<Item>> {
  const limit = request.maxResults ?? DEFAULT_PAGE_SIZE;
  const after = request.nextToken === undefined ? {} : { after: tokens.open(scope, request.nextToken) };
  // One more than asked for tells whether there is a next page.
  const found = await list({ ...after, limit: limit + 1 });
  const rows = found.slice(0, limit);
  const last = rows.at(-1);
  return {
    items: rows.map((row) => itemOf(row.body)),
    nextToken: found.length > limit && last !== undefined ? tokens.seal(scope, last) : null,
  };
}
