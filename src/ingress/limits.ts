/** What a client may take of the endpoint: one object, given to the doors, the TLS terminator and every front. */

export interface Limits {
  /** Of the request line and all headers of one request together. */
  readonly headerBytes: number;
  /** A TLS handshake is done by then. */
  readonly handshakeMs: number;
  /** A request's headers are there by then, a slow drip included. */
  readonly headersMs: number;
  /** A connection between two requests is closed after this long. */
  readonly keepAliveMs: number;
  /** A connection on which no byte moves either way. GUESS: endpoint-idle-timeout */
  readonly silentMs: number;
  readonly connectionsPerMicrovm: number;
}

export const DEFAULT_LIMITS: Limits = Object.freeze({
  headerBytes: 65_536,
  handshakeMs: 10_000,
  headersMs: 20_000,
  keepAliveMs: 65_000,
  silentMs: 3_600_000,
  connectionsPerMicrovm: 2000,
});
