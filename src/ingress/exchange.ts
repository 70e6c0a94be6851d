/**
 * The seam of the data plane: one exchange between a client and an app, whatever protocol either of them speaks.
 *
 * A *front* (HTTP/1.1, HTTP/2) turns what a client sent into a `ClientSide`; an *upstream* (HTTP/1.1, h2c, TLS) carries it
 * into a guest; `forward` joins the two. Bytes are handed over by plain calls, not streams: a stream object per direction
 * costs more than the request it carries.
 *
 * Flow control: a call that takes bytes answers false when its taker has had enough; the giver then stops until `resume`
 * of the side it gave to is called back. What is already on its way may still come.
 * Invariant: after `end`, `abort` or `failed` nothing more is called on that side.
 */
import type { RawHeaders } from './headers.ts';

/** Names as sent (lower case in HTTP/2), repeats kept, hop-by-hop ones included; `Host` is there for every protocol. */
export interface RequestHead {
  readonly protocol: 'http/1.0' | 'http/1.1' | 'h2';
  readonly method: string;
  /** As sent, query included. */
  readonly path: string;
  readonly headers: RawHeaders;
  /** Whether a body follows, and how long it says it is (undefined: unknown until its end). */
  readonly hasBody: boolean;
  readonly bodyLength: number | undefined;
  /** Its sender waits for `100 Continue` before it sends the body. */
  readonly expectsContinue: boolean;
}

export interface AnswerHead {
  readonly status: number;
  /** Empty in HTTP/2. */
  readonly reason: string;
  readonly headers: RawHeaders;
  /** Undefined: unknown until its end. 0 when there is none (HEAD, 204, 304 included). */
  readonly bodyLength: number | undefined;
}

/** Where the body of a request goes. */
export interface BodySink {
  /** The bytes are valid during the call only: who keeps them makes a copy. */
  data(chunk: Buffer): boolean;
  end(trailers: RawHeaders): void;
  /** The client broke off in the middle. */
  abort(): void;
}

/** What comes back from an app. Exactly one of `end` and `failed` is called, once. */
export interface AnswerSink {
  /** 1xx other than 101; may be repeated. */
  interim(status: number, headers: RawHeaders): void;
  head(head: AnswerHead): void;
  /** The bytes are valid during the call only: who keeps them makes a copy. */
  data(chunk: Buffer): boolean;
  end(trailers: RawHeaders): void;
  /**
   * `isRepeatable`: no byte of an answer or of a body has passed, and the app did not see the request or may see it twice, so
   * it may be sent again. To a client: the answer breaks off here, and must not look whole.
   */
  failed(error: Error, isRepeatable: boolean): void;
}

/** The client's end of an exchange; a front implements it. */
export interface ClientSide extends AnswerSink {
  readonly request: RequestHead;
  /** True once an answer's head was passed on. */
  readonly hasAnswered: boolean;
  /** Starts the body, which is not read before; at most once. Only when `request.hasBody`. */
  readBody(sink: BodySink): void;
  /** The sink may be given more. */
  resumeBody(): void;
  /** What is left of the body is thrown away, now or as it comes, so that the client can finish; the sink hears no more. */
  discardBody(): void;
  /** Tells a client that waits for `100 Continue` to go on; does nothing otherwise. */
  sendContinue(): void;
  /** Called once when the client is gone before the exchange ended. */
  onGone(listener: () => void): void;
  /** Called when the client takes answer data again. */
  onDrain(listener: () => void): void;
}

/** A request under way to an app; an upstream implements it. */
export interface Outgoing {
  /** Not used when the request has no body: it is complete with its head then. */
  readonly body: BodySink;
  /** The request's sender is told when `body` takes data again. */
  onDrain(listener: () => void): void;
  /** The answer's taker has room again. */
  resumeAnswer(): void;
  /** Ends it early, both ways; `answer.failed` is not called. */
  cancel(): void;
}

/** Who waits for something; the signal aborts when it waits no more. */
export interface Caller {
  readonly signal: AbortSignal;
}

/** One way into one port of one machine. */
export interface Upstream {
  /**
   * Resolves once a way to the app stands, so that the body may be read; rejects when there is none, which is certain to have
   * sent nothing. `headers` are what the app is to see, content-length included, transfer-encoding not.
   * Failures from then on come through `answer`. The caller's signal is made when it is asked for: only who waits needs it.
   */
  send(head: RequestHead, headers: RawHeaders, answer: AnswerSink, caller: Caller): Promise<Outgoing>;
}
