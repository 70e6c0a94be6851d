/** The answers of the proxy itself: plain text or empty, never JSON (behaviour.md §9.5). */
import type { ClientSide } from './exchange.ts';
import { REQUEST_ID } from './headers.ts';

export interface Refusal {
  readonly status: number;
  readonly text: string;
}

export const BAD_GATEWAY: Refusal = { status: 502, text: '' };

/** Answers if nothing was answered yet; otherwise breaks the answer off, so that a half one can't pass for a whole one. */
export function refuse(client: ClientSide, refusal: Refusal, requestId: string): void {
  if (client.hasAnswered) return void client.failed(new Error('refused'), false);
  const body = Buffer.from(refusal.text);
  client.head({
    status: refusal.status,
    reason: '',
    headers: refusalHeaders(body, requestId),
    bodyLength: body.length,
  });
  if (body.length > 0) client.data(body);
  client.end([]);
}

export function refusalHeaders(body: Buffer, requestId: string): string[] {
  return [
    ...(body.length > 0 ? ['content-type', 'text/plain'] : []),
    'content-length',
    String(body.length),
    'cache-control',
    'private, no-store',
    REQUEST_ID,
    requestId,
  ];
}
