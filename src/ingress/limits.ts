/** What a client may take of the endpoint: one object, given to the doors, the TLS terminator and every front. */
export { connectionsOf, DEFAULT_LIMITS, type Limits, type RequestRate, requestRateOf } from '../endpoint-limits.ts';
