/** The store room's door: durable records behind one interface. */
export { type Page, type PageKey, PageTokens } from './page-token.ts';
