/**
 * The way to a port of which nobody knows yet whether its app speaks TLS. Nearly none does, so that requests go in the clear
 * first; when that fails, is answered with what TLS servers answer to such requests (400), or was given as much of a body as is
 * held without a word of the app, one handshake is tried, and if it succeeds the request goes again inside TLS.
 *
 * Invariant: nothing of an answer reached the client, and all of the request that was sent is still held, when it goes again.
 */
import type { AnswerHead, AnswerSink, BodySink, Caller, Outgoing, RequestHead, Upstream } from '../exchange.ts';
import type { RawHeaders } from '../headers.ts';

export interface Detection {
  /** In the clear. */
  readonly plain: Upstream;
  /** Tries a handshake. The way inside TLS, or undefined when the app does not speak it. Never rejects. */
  readonly inTls: () => Promise<Upstream | undefined>;
  /** The app was heard to speak HTTP in the clear. */
  readonly isPlain: () => void;
}

/** Of a request's body, held until the app was heard or tried. */
const HELD_BYTES = 65_536;

export class DetectingUpstream implements Upstream {
  readonly #detection: Detection;

  constructor(detection: Detection) {
    this.#detection = detection;
  }

  async send(head: RequestHead, headers: RawHeaders, answer: AnswerSink, caller: Caller): Promise<Outgoing> {
    const attempt = new Attempt(this.#detection, { head, headers, answer, caller });
    try {
      await attempt.begin();
      return attempt;
    } catch (error) {
      // A port that can't be connected to has no TLS either; only what answered wrongly may have.
      const inTls = isUnreached(error) ? undefined : await this.#detection.inTls();
      if (inTls === undefined) throw error;
      return inTls.send(head, headers, answer, caller);
    }
  }
}

function isUnreached(error: unknown): boolean {
  return error instanceof Error && error.name === 'MachineError';
}

interface Request {
  readonly head: RequestHead;
  readonly headers: RawHeaders;
  readonly answer: AnswerSink;
  readonly caller: Caller;
}

class Attempt implements Outgoing, AnswerSink {
  readonly body: BodySink;
  readonly #detection: Detection;
  readonly #request: Request;
  #outgoing: Outgoing | undefined;
  #onDrain: (() => void) | undefined;
  /** Undefined once the app was heard or tried. */
  #held: Buffer[] | undefined = [];
  #heldBytes = 0;
  #trailers: RawHeaders | undefined;
  /** What the app answered while it is tried whether it speaks TLS. */
  #suspicious: (() => void)[] | undefined;
  #hasAnswered = false;
  #isOver = false;

  constructor(detection: Detection, request: Request) {
    this.#detection = detection;
    this.#request = request;
    this.body = {
      data: (chunk) => this.#sendData(chunk),
      end: (trailers) => {
        this.#trailers = trailers;
        this.#outgoing?.body.end(trailers);
      },
      abort: () => {
        this.#isOver = true;
        if (this.#outgoing !== undefined) this.#outgoing.body.abort();
        else this.#request.answer.failed(new Error('the client broke off'), false);
      },
    };
  }

  async begin(): Promise<void> {
    const { head, headers, caller } = this.#request;
    this.#use(await this.#detection.plain.send(head, headers, this, caller));
  }

  onDrain(listener: () => void): void {
    this.#onDrain = listener;
  }

  resumeAnswer(): void {
    if (this.#suspicious === undefined) this.#outgoing?.resumeAnswer();
  }

  cancel(): void {
    this.#isOver = true;
    this.#outgoing?.cancel();
  }

  interim(status: number, headers: RawHeaders): void {
    this.#request.answer.interim(status, headers);
  }

  head(head: AnswerHead): void {
    const pass = () => this.#request.answer.head(head);
    this.#hasAnswered = true;
    if (head.status === 400 && this.#held !== undefined) this.#doubt(pass);
    else {
      this.#isHeard();
      pass();
    }
  }

  data(chunk: Buffer): boolean {
    if (this.#suspicious === undefined) return this.#request.answer.data(chunk);
    const copy = Buffer.from(chunk);
    this.#suspicious.push(() => void this.#request.answer.data(copy));
    return false;
  }

  end(trailers: RawHeaders): void {
    if (this.#suspicious === undefined) this.#request.answer.end(trailers);
    else this.#suspicious.push(() => this.#request.answer.end(trailers));
  }

  failed(error: Error, isRepeatable: boolean): void {
    const pass = () => this.#request.answer.failed(error, isRepeatable);
    if (this.#held === undefined) pass();
    else this.#doubt(pass);
  }

  #sendData(chunk: Buffer): boolean {
    const hasRoom = this.#outgoing?.body.data(chunk) ?? false;
    if (this.#held === undefined) return hasRoom;
    this.#held.push(Buffer.from(chunk));
    this.#heldBytes += chunk.length;
    if (this.#heldBytes > HELD_BYTES) this.#doubt(() => {});
    return hasRoom && this.#suspicious === undefined;
  }

  /** The app speaks HTTP in the clear. */
  #isHeard(): void {
    this.#detection.isPlain();
    this.#believe();
  }

  /** What it answered was meant so, and its request goes on. */
  #believe(): void {
    const passes = this.#suspicious;
    this.#held = undefined;
    this.#suspicious = undefined;
    if (passes === undefined) return;
    for (const pass of passes) pass();
    this.#outgoing?.resumeAnswer();
    if (this.#trailers === undefined) this.#onDrain?.();
  }

  /** `pass` is called when it turns out that the app does not speak TLS. */
  #doubt(pass: () => void): void {
    if (this.#suspicious !== undefined) return void this.#suspicious.push(pass);
    this.#suspicious = [pass];
    void this.#tryTls();
  }

  #use(outgoing: Outgoing): void {
    this.#outgoing = outgoing;
    outgoing.onDrain(() => {
      if (this.#suspicious === undefined) this.#onDrain?.();
    });
  }

  async #tryTls(): Promise<void> {
    const inTls = await this.#detection.inTls();
    // It answered in the clear meanwhile, which settles it.
    if (this.#isOver || this.#held === undefined) return;
    if (inTls === undefined) return this.#hasAnswered ? this.#isHeard() : this.#believe();
    const { head, headers, answer, caller } = this.#request;
    this.#outgoing?.cancel();
    this.#outgoing = undefined;
    try {
      const outgoing = await inTls.send(head, headers, answer, caller);
      if (this.#isOver) return outgoing.cancel();
      // What came while it was being opened is held as well.
      const held = this.#held;
      this.#held = undefined;
      this.#suspicious = undefined;
      this.#use(outgoing);
      let hasRoom = true;
      for (const chunk of held) hasRoom = outgoing.body.data(chunk);
      if (this.#trailers !== undefined) outgoing.body.end(this.#trailers);
      else if (hasRoom && head.hasBody) this.#onDrain?.();
    } catch (error) {
      answer.failed(error instanceof Error ? error : new Error(String(error)), false);
    }
  }
}
