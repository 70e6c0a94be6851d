/**
 * One HTTP exchange between a client and an app: both bodies are streamed as they come, at the pace of the slower side.
 *
 * Invariant: the client gets one whole answer, a refusal, or one that visibly breaks off. The request's body is read only once
 * a way to the app stands, so a request may change machines until then.
 */
import { type Clock, type Logger, messageOf, withDeadline } from '../lib/index.ts';
import type { Machine, Microvms, UnderWay } from '../microvms/index.ts';
import { BAD_GATEWAY, refuse } from './answers.ts';
import type { AnswerHead, AnswerSink, Caller, ClientSide, Outgoing, Upstream } from './exchange.ts';
import { type RawHeaders, requestHeaders, responseHeaders, trailers } from './headers.ts';
import { StreamReset } from './http2/reset.ts';
import { Patience } from './patience.ts';
import { isMachineGone, type Upstreams } from './upstream.ts';

export const MAX_HEADER_BYTES = 65_536;
/** For the case that a wake does not keep to its own bound. */
export const WAKE_TIMEOUT_MS = 330_000;
/** A client that waits for `100 Continue` gets it from us when the app said nothing until then. */
const CONTINUE_MS = 1000;
/** A machine may be suspended between waking it and connecting to it; more often than this it is not bad luck. */
const ATTEMPTS = 3;

/** Where an admitted request goes. */
export interface Target {
  readonly microvmId: string;
  readonly port: number;
  readonly requestId: string;
}

export interface Surroundings {
  readonly microvms: Pick<Microvms, 'wake' | 'activity' | 'exchange'>;
  readonly upstreams: Upstreams;
  readonly clock: Clock;
  readonly log: Logger;
}

/** Delivers an admitted request. Never throws: what goes wrong becomes a 502 or an answer that breaks off. */
export async function forward(client: ClientSide, target: Target, around: Surroundings): Promise<void> {
  const gone = new Gone();
  const delivery = new Delivery(client, target, around, gone);
  around.microvms.activity(target.microvmId);
  let patience: Patience | undefined;
  try {
    for (let attempt = 1; ; ) {
      const machine = await wakeSoon(around, target.microvmId, gone);
      using underWay = around.microvms.exchange(target.microvmId);
      const way = around.upstreams.to(machine, target.port, client.request);
      const failure = await delivery.try(way, underWay, gone);
      if (failure === undefined) return;
      patience ??= new Patience(around.clock);
      if (failure.isUnreached && (await patience.isWorthIt(failure.error, underWay, gone.signal))) continue;
      if (!failure.isRepeatable || attempt === ATTEMPTS) throw failure.error;
      attempt++;
    }
  } catch (error) {
    if (gone.isAborted) return;
    around.log.debug(
      { microvmId: target.microvmId, requestId: target.requestId, error: messageOf(error) },
      'endpoint answers 502',
    );
    // A client of HTTP/2 is told of a reset as such: gRPC has meanings for its codes.
    if (error instanceof StreamReset && client.request.protocol === 'h2') client.failed(error, false);
    else refuse(client, BAD_GATEWAY, target.requestId);
  }
}

/** The live machine, woken if need be. @throws DomainError, MachineError */
export function wake(around: Surroundings, microvmId: string, signal: AbortSignal): Promise<Machine> {
  return withDeadline(
    'waking the microVM',
    WAKE_TIMEOUT_MS,
    (bounded) => around.microvms.wake(microvmId, { signal: bounded }),
    { signal },
  );
}

/** As `wake`, without the cost of its deadline when the machine is there already, as it nearly always is. */
async function wakeSoon(around: Surroundings, microvmId: string, caller: Caller): Promise<Machine> {
  const waking = around.microvms.wake(microvmId, caller);
  let isSettled = false;
  const settle = () => {
    isSettled = true;
  };
  waking.then(settle, settle);
  // What has settled by now says so before this goes on.
  await undefined;
  if (isSettled) return waking;
  return withDeadline('waking the microVM', WAKE_TIMEOUT_MS, () => waking, caller);
}

/** That the client is gone, as a flag and, for who asks, as a signal. */
class Gone implements Caller {
  #controller: AbortController | undefined;
  isAborted = false;

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    if (this.isAborted) this.#controller.abort();
    return this.#controller.signal;
  }

  abort(): void {
    this.isAborted = true;
    this.#controller?.abort();
  }
}

interface Failure {
  readonly error: Error;
  readonly isRepeatable: boolean;
  /** No way to the app was found. */
  readonly isUnreached: boolean;
}

class Delivery implements AnswerSink {
  readonly #client: ClientSide;
  readonly #target: Target;
  readonly #around: Surroundings;
  readonly #gone: Gone;
  #outgoing: Outgoing | undefined;
  #underWay: UnderWay | undefined;
  #over: (failure: Failure | undefined) => void = () => {};
  #continueTimer: Disposable | undefined;
  /** The answer came to its end, or will not. */
  #hasAnswer = false;
  #isSending = false;
  /** What was read of a body is gone: such a request can't be sent again. */
  #hasReadBody = false;

  constructor(client: ClientSide, target: Target, around: Surroundings, gone: Gone) {
    this.#gone = gone;
    this.#client = client;
    this.#target = target;
    this.#around = around;
    client.onGone(() => {
      gone.abort();
      this.#outgoing?.cancel();
      this.#finish(undefined);
    });
    client.onDrain(() => this.#outgoing?.resumeAnswer());
  }

  /** Resolves when the exchange is over: with nothing, or with a failure of which the client has seen nothing. */
  async try(upstream: Upstream, underWay: UnderWay, caller: Caller): Promise<Failure | undefined> {
    const { promise, resolve } = Promise.withResolvers<Failure | undefined>();
    this.#over = resolve;
    this.#underWay = underWay;
    this.#hasAnswer = false;
    const { request } = this.#client;
    let outgoing: Outgoing;
    try {
      const headers = requestHeaders(request.headers, this.#target.requestId);
      outgoing = await upstream.send(request, headers, this, caller);
    } catch (error) {
      return {
        error: error instanceof Error ? error : new Error(String(error)),
        isRepeatable: isMachineGone(error),
        isUnreached: true,
      };
    }
    if (this.#gone.isAborted) outgoing.cancel();
    else {
      this.#outgoing = outgoing;
      if (request.hasBody && !this.#hasAnswer) this.#sendBody(outgoing);
    }
    return promise;
  }

  interim(status: number, headers: RawHeaders): void {
    if (status === 100) this.#client.sendContinue();
    else this.#client.interim(status, responseHeaders(headers, this.#target.requestId));
  }

  head(head: AnswerHead): void {
    this.#active();
    this.#underWay?.answered();
    this.#stopWaiting();
    const { status, reason, bodyLength } = head;
    const headers = responseHeaders(head.headers, this.#target.requestId);
    this.#client.head({ status, reason, headers, bodyLength });
  }

  data(chunk: Buffer): boolean {
    this.#active();
    return this.#client.data(chunk);
  }

  end(rawTrailers: RawHeaders): void {
    this.#hasAnswer = true;
    this.#client.end(trailers(rawTrailers));
    if (!this.#isSending) this.#finish(undefined);
  }

  failed(error: Error, isRepeatable: boolean): void {
    this.#hasAnswer = true;
    if (!this.#client.hasAnswered)
      return void this.#finish({ error, isRepeatable: isRepeatable && !this.#hasReadBody, isUnreached: false });
    this.#client.failed(error, false);
    this.#finish(undefined);
  }

  #sendBody(outgoing: Outgoing): void {
    this.#isSending = true;
    this.#hasReadBody = true;
    outgoing.onDrain(() => this.#client.resumeBody());
    const { clock } = this.#around;
    if (this.#client.request.expectsContinue) {
      this.#continueTimer = clock.after(CONTINUE_MS, () => this.#client.sendContinue());
    }
    this.#client.readBody({
      data: (chunk) => {
        this.#active();
        return outgoing.body.data(chunk);
      },
      end: (rawTrailers) => {
        this.#isSending = false;
        outgoing.body.end(trailers(rawTrailers));
        if (this.#hasAnswer) this.#finish(undefined);
      },
      abort: () => {
        this.#isSending = false;
        outgoing.body.abort();
        if (this.#hasAnswer) this.#finish(undefined);
      },
    });
  }

  #active(): void {
    this.#underWay?.active();
  }

  #stopWaiting(): void {
    this.#continueTimer?.[Symbol.dispose]();
    this.#continueTimer = undefined;
  }

  #finish(failure: Failure | undefined): void {
    this.#stopWaiting();
    this.#over(failure);
  }
}
