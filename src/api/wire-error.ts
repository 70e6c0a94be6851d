/** A refusal as it goes over the restJson1 wire: the type travels in a header only, the body holds the members. */
export class WireError extends Error {
  override readonly name = 'WireError';
  readonly type: string;
  readonly status: number;
  readonly body: Readonly<Record<string, unknown>>;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    type: string,
    status: number,
    body: Readonly<Record<string, unknown>>,
    options: { headers?: Readonly<Record<string, string>>; cause?: unknown } = {},
  ) {
    super(`${type}: ${JSON.stringify(body)}`, { cause: options.cause });
    this.type = type;
    this.status = status;
    this.body = body;
    this.headers = options.headers ?? {};
  }
}

/** The request cannot be read as what the operation takes; capital `Message` as recorded for wrong union content. */
export function serializationError(message: string): WireError {
  return new WireError('SerializationException', 400, { Message: message });
}
