/**
 * The entries that clients which can't set headers put among their WebSocket subprotocols (behaviour.md §9.6). They hold a token:
 * no app ever sees one, whatever the request that carried it.
 */

/** Says that the others are meant; the proxy selects it when the app selects nothing. */
export const MARKER = 'lambda-microvms';
export const AUTHENTICATION = `${MARKER}.authentication.`;
export const PORT = `${MARKER}.port.`;

/** As listed, in any number of headers; blanks around an entry are no part of it. */
export function entriesOf(values: readonly string[]): readonly string[] {
  return values.flatMap((value) => value.split(',')).map((entry) => entry.replace(/^[ \t]+|[ \t]+$/g, ''));
}

/** What the app may see of a list; empty: nothing. */
export function forApp(entries: readonly string[]): string {
  return entries.filter((entry) => entry !== '' && !isOurs(entry)).join(', ');
}

function isOurs(entry: string): boolean {
  return entry === MARKER || entry.startsWith(AUTHENTICATION) || entry.startsWith(PORT);
}
