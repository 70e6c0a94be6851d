/** The answers of the proxy itself: plain text or empty, never JSON (behaviour.md §9.5). */
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Clock } from '../lib/index.ts';
import { REQUEST_ID } from './headers.ts';

/** A client whose body nobody will read gets this long to notice the answer. */
const UNREAD_BODY_MS = 5000;

export interface Refusal {
  readonly status: number;
  readonly text: string;
}

export const BAD_GATEWAY: Refusal = { status: 502, text: '' };

/** Answers if nothing was answered yet; otherwise cuts the connection, so that a half answer can't pass for a whole one. */
export function refuse(response: ServerResponse, refusal: Refusal, requestId: string, clock: Clock): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const body = Buffer.from(refusal.text);
  // The reason is given because a half-written answer of the app may have left its own.
  response.writeHead(refusal.status, STATUS_CODES[refusal.status] ?? '', [
    ...(body.length > 0 ? ['content-type', 'text/plain'] : []),
    'content-length',
    String(body.length),
    'cache-control',
    'private, no-store',
    REQUEST_ID,
    requestId,
  ]);
  response.end(body);
  if (!response.req.complete) cutLater(response.req, clock);
}

/** Ends the connection unless the rest of the request's body arrives soon. */
function cutLater(request: IncomingMessage, clock: Clock): void {
  const { socket } = request;
  const timer = clock.after(UNREAD_BODY_MS, () => socket.destroy());
  const cancel = () => {
    timer[Symbol.dispose]();
    socket.off('close', cancel);
  };
  request.once('end', cancel);
  socket.once('close', cancel);
}
